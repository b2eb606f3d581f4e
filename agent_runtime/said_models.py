"""What travels of what was said in a session."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tools.calls import ToolCall


class SaidMessage(BaseModel):
    """role:      "system", "user", "assistant" or "tool", for the result of one; "" if it cannot
                  be told
    text:      without its reasoning and its calls, and without what the template writes around it
    reasoning: "" too where it is not a part of the history
    at:        when its turn was committed, in seconds since 1970
    snapshot:  of that turn
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str
    text: str
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    at: float
    snapshot: str
