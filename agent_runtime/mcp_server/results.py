"""What the tools give back."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from agent_runtime.wire.sessions import SessionView, SnapshotView
from agent_runtime.wire.turns import TurnResult, Usage
from tools.calls import ToolCall


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(_Result):
    """What the session's model said.

    snapshot: the commit of this turn, to fork from; None if it could not be committed
    tool_calls: that the model waits for; give their results with the next turn, in this order
    """

    session_id: str
    snapshot: str | None
    parent: str | None
    text: str
    reasoning: str
    tool_calls: list[ToolCall]
    problems: list[str]
    finish_reason: str
    usage: Usage
    durable: str | None
    not_durable_because: str | None
    replayed: bool

    @classmethod
    def of(cls, result: TurnResult) -> Self:
        return cls(**result.model_dump(include=set(cls.model_fields)))


class SessionList(_Result):
    """Newest first. more: whether there are others"""

    sessions: list[SessionView]
    more: bool


class History(_Result):
    """A session, and the last snapshots of its history, up to its head. more: whether there are
    earlier ones"""

    session: SessionView
    snapshots: list[SnapshotView]
    more: bool


class Deleted(_Result):
    session_id: str
