"""Messages, and how the model is shown them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from agent_runtime.wire.base import Wire
from agent_runtime.wire.lists import FEW
from tools.calls import ToolCall

OptionValue = bool | int | str
Options = Mapping[str, OptionValue]
"""What a template is given besides the conversation, as `enable_thinking`."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""As OpenAI and Anthropic name them, together."""

HistoryPolicy = Literal["append", "template"]


class Message(Wire):
    """One message from the client's side: `user` text, a `tool` result, or what an `assistant`
    said elsewhere, which becomes a part of the history as it stands; its `reasoning` as far as the
    checkpoint's template shows the model what it thought before."""

    role: str
    content: str
    tool_calls: Annotated[tuple[Annotated[ToolCall, FEW], ...], Field(fail_fast=True)] = ()
    reasoning: str = ""


class SaidMessage(Wire):
    """role:      "system", "user", "assistant" or "tool", for the result of one; "" if it cannot
                  be told
    text:      without its reasoning and its calls, and without what the template writes around it
    reasoning: "" too where it is not a part of the history
    at:        when its turn was committed, in seconds since 1970
    snapshot:  of that turn
    """

    role: str
    text: str
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    at: float
    snapshot: str
