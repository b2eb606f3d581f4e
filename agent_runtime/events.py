"""What a turn tells while it runs: one class per event, and its name on the wire.

Another kind of event is a class and a line in `EVENTS`: the service encodes it, and the client
library decodes it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from agent_runtime.models import TurnResult
from tools.calls import ToolCall


class Text(BaseModel):
    """A piece of generated text, as soon as its bytes are whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str


class Reasoning(BaseModel):
    """A piece of what the model thinks before it answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str


class ToolCalled(ToolCall):
    """A call that the model has written to its end."""


TurnEvent = Reasoning | Text | ToolCalled | TurnResult
"""What a turn yields: its last event is the TurnResult."""

EVENTS: dict[str, type[TurnEvent]] = {
    "reasoning": Reasoning,
    "text": Text,
    "tool_call": ToolCalled,
    "result": TurnResult,
}


def replayed(result: TurnResult) -> list[TurnEvent]:
    """The events of a turn that was answered before."""
    reasoning = [Reasoning(text=result.reasoning)] if result.reasoning else []
    text = [Text(text=result.text)] if result.text else []
    return [*reasoning, *text, *(called(call) for call in result.tool_calls), result]


def called(call: ToolCall) -> ToolCalled:
    return ToolCalled(name=call.name, arguments=call.arguments)


_NAMES = {kind: name for name, kind in EVENTS.items()}


def encoded(event: TurnEvent) -> str:
    """The event as a server-sent one."""
    return sent(_NAMES[type(event)], event)


def sent(name: str, body: BaseModel) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {body.model_dump_json()}\n\n"
