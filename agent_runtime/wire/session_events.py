"""What is told of a session: one class per event, and its name on the wire.

None holds anything that was said: who follows a session reads it for that.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from agent_runtime.wire.events import Phase
from agent_runtime.wire.turns import Usage


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TurnBegan(_Told):
    """head: that it is said on"""

    turn: str
    head: str | None


class Working(_Told):
    """How far a turn, or a resume (`turn` is null), is: as `Progress` in events.py. Loads are bytes
    from the store, prefills tokens, commits what is offloaded to the store."""

    turn: str | None
    phase: Phase
    done: int
    total: int


class TurnCommitted(_Told):
    """snapshot: the head now; finish_reason, usage: None if its client was gone by then"""

    turn: str
    snapshot: str
    finish_reason: str | None
    usage: Usage | None
    durable: str | None


class TurnFailed(_Told):
    """code: as in the problem document that its client got. The head is what it was."""

    turn: str
    code: str


class TurnCancelled(_Told):
    """The head is what it was."""

    turn: str


class WasSuspended(_Told):
    head: str | None
    durable: str


class WasResumed(_Told):
    """restorable_tokens: of `tokens`, those that need not be computed again; reason: why not all"""

    head: str | None
    tokens: int
    restorable_tokens: int
    reason: str | None


class Rewound(_Told):
    head: str | None


class ResidencyChanged(_Told):
    """The state is on a device now, as far as this runtime knows, or has left it."""

    residency: Literal["device", "stored"]


class Deleted(_Told):
    """The last event."""


class Missed(_Told):
    """Events before the next one are gone: the reader was too slow or away for too long. Look at
    the session. dropped: how many, if that is known"""

    dropped: int | None


SessionEvent = (
    TurnBegan
    | Working
    | TurnCommitted
    | TurnFailed
    | TurnCancelled
    | WasSuspended
    | WasResumed
    | Rewound
    | ResidencyChanged
    | Deleted
)

SESSION_EVENTS: dict[str, type[BaseModel]] = {
    "turn_began": TurnBegan,
    "progress": Working,
    "turn_committed": TurnCommitted,
    "turn_failed": TurnFailed,
    "turn_cancelled": TurnCancelled,
    "suspended": WasSuspended,
    "resumed": WasResumed,
    "rewound": Rewound,
    "residency": ResidencyChanged,
    "deleted": Deleted,
    "missed": Missed,
}
_NAMES = {kind: name for name, kind in SESSION_EVENTS.items()}


def name_of(event: BaseModel) -> str:
    return _NAMES[type(event)]
