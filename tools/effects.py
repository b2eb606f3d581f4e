"""What calling a tool does to the world, and so whether a call may be made again."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, Strict

from tools.canonical import canonical
from tools.results import ToolResult


class Effect(StrEnum):
    """pure:       nothing but an answer: may be called again at any time
    idempotent: what is done twice with the same `Context.key` is done once
    effectful:  may do something that calling it again would do again
    """

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    EFFECTFUL = "effectful"


class Scope(StrEnum):
    """branch: what forks with the session, such as its workspace: every branch has its own
    world:  what all branches share, such as a mail server
    """

    BRANCH = "branch"
    WORLD = "world"


class State(StrEnum):
    """started: and not known to have ended
    unknown: somebody has noticed that, or it was given up: it may have happened
    done:    its result is what the tool said, also that it failed
    """

    STARTED = "started"
    UNKNOWN = "unknown"
    DONE = "done"


class Entry(BaseModel):
    """One call of a tool that is not pure, in a ledger.

    branch:  whose history the call is in; point: where in that, such as the id of the snapshot that
             ends with the message; position: of the call in the message
    arguments_hash: of the checked arguments, 64 hex digits
    result:  once it is done
    taken_from: branch whose result it is; then this call did nothing
    at:      seconds since 1970, when it was started
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    branch: str
    point: str
    position: Annotated[int, Strict(), Field(ge=0, lt=1 << 32)]
    tool: str
    arguments_hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    effect: Effect
    scope: Scope
    at: Annotated[float, Strict()]
    state: State = State.STARTED
    result: ToolResult | None = None
    taken_from: str = ""

    @property
    def call_id(self) -> str:
        """Of this very call in its branch; a call with other arguments is another one."""
        return f"{self.point}/{self.position}/{self.tool}/{self.arguments_hash}"

    @property
    def key(self) -> str:
        """See `Context.key`: 32 hex digits."""
        return hashlib.sha256(f"{self.branch}/{self.call_id}".encode()).hexdigest()[:32]

    def does_what(self, other: Entry) -> bool:
        """Whether both call the same tool with the same arguments, wherever."""
        return (self.tool, self.arguments_hash) == (other.tool, other.arguments_hash)


class Ledger(Protocol):
    """What has been called. Written before a call starts, so that what a crash hides is known.

    Every method may raise: then a call that was not begun is not made.
    """

    async def find(self, entry: Entry) -> Entry | None:
        """What its branch has of this very call."""

    async def begin(self, entry: Entry) -> Entry | None:
        """Record that a call starts, durably, before it does; the entry that its branch has of
        this very call already, if any: then nothing was recorded. Atomic."""

    async def end(self, entry: Entry) -> None:
        """Record how far a call has come, begun or not. What is done stays done."""

    async def inherited(self, entry: Entry) -> list[Entry]:
        """Entries of other branches that do what `entry` does, in the order they were started:
        before its branch left them, and at a point that it began with."""


class Repeat(StrEnum):
    """reuse:  take the result that it had, and do not call the tool
    run:    call it again; its key is that of this branch
    refuse: do not call it, and tell the model
    """

    REUSE = "reuse"
    RUN = "run"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Repeated:
    """A call that would repeat an effect, or may.

    arguments: checked
    earlier:   the entry of another branch, or of this one if how it ended is not known
    same_branch: which of the two it is
    """

    tool: str
    arguments: Mapping[str, Any]
    earlier: Entry
    same_branch: bool


Policy = Callable[[Repeated], Awaitable[Repeat]]


async def never_twice(repeated: Repeated) -> Repeat:
    """The results of effects that happened are taken; what may have happened is not repeated."""
    return Repeat.REUSE if repeated.earlier.state is State.DONE else Repeat.REFUSE


def arguments_hash(arguments: Mapping[str, Any]) -> str:
    """64 hex digits, see `canonical`."""
    return hashlib.sha256(canonical(arguments).encode()).hexdigest()
