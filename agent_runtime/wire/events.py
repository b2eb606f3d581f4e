"""What a turn or resume tells while it runs: one class per event, and its name on the wire.

Another kind of event is a class and a line in `EVENTS`: the service encodes it, and the client
library decodes it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from agent_runtime.wire.residency import Resumed
from agent_runtime.wire.turns import TurnResult
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


Phase = Literal["load", "prefill", "commit"]


class Progress(BaseModel):
    """How far a wait is that takes more than a moment.

    load:    bytes of stored state that the engine has read, of those that it needs
    prefill: tokens of the prompt that are restored or computed
    commit:  pages and states that are stored, of those that wait to be
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    phase: Phase
    done: int
    total: int


TurnEvent = Reasoning | Text | ToolCalled | Progress | TurnResult
"""What a turn yields: its last event is the TurnResult."""

EVENTS: dict[str, type[TurnEvent]] = {
    "reasoning": Reasoning,
    "text": Text,
    "tool_call": ToolCalled,
    "progress": Progress,
    "result": TurnResult,
}
ResumeEvent = Progress | Resumed
"""What a resume yields: its last event is the Resumed."""

RESUME_EVENTS: dict[str, type[ResumeEvent]] = {
    "progress": Progress,
    "result": Resumed,
}
Event = TurnEvent | ResumeEvent


def replayed(result: TurnResult) -> list[TurnEvent]:
    """The events of a turn that was answered before."""
    reasoning = [Reasoning(text=result.reasoning)] if result.reasoning else []
    text = [Text(text=result.text)] if result.text else []
    return [*reasoning, *text, *(called(call) for call in result.tool_calls), result]


def called(call: ToolCall) -> ToolCalled:
    return ToolCalled(name=call.name, arguments=call.arguments)


_NAMES = {kind: name for kinds in (EVENTS, RESUME_EVENTS) for name, kind in kinds.items()}


def encoded(event: Event) -> str:
    """The event as a server-sent one."""
    return sent(_NAMES[type(event)], event)


def sent(name: str, body: BaseModel) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {body.model_dump_json()}\n\n"
