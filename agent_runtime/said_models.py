"""What travels of what was said in a session."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from agent_runtime.messages.chat import Message


class SaidMessage(BaseModel):
    """role:  "" if it cannot be told
    text:     as the model's template has written it
    at:       when its turn was committed, in seconds since 1970
    snapshot: of that turn
    parts:    the same as messages, with its reasoning and its calls apart from what it says. Most
              are one; results of several tools may stand in one message
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str
    text: str
    at: float
    snapshot: str
    parts: list[Message]
