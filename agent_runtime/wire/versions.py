"""What travels about versions of sessions: many forks, rewinding, comparing, the tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from agent_runtime.wire.base import Wire
from agent_runtime.wire.problems import Problem
from agent_runtime.wire.sessions import Forked, ForkRequest, SnapshotView


class ForksRequest(ForkRequest):
    count: int = Field(ge=1, le=256)


class Fork(Wire):
    """One of many forks: made, or not, and why."""

    fork: Forked | None = None
    problem: Problem | None = None


class Forks(Wire):
    forks: list[Fork]


class RewindRequest(Wire, strict=True):
    """Back to a snapshot of the session's own history, or by a number of turns, or to before the
    first one (`snapshot` is "")."""

    snapshot: str | None = None
    turns: int | None = Field(default=None, ge=1)
    expected_head: str | None = None
    """If given, nothing is done unless this is the head; "" if it is to be empty."""

    @model_validator(mode="after")
    def _names_one_place(self) -> Self:
        if (self.snapshot is None) is (self.turns is None):
            raise ValueError("a session is rewound to a snapshot or by a number of turns")
        return self


class DiffView(Wire):
    """Where two histories part.

    ancestor:         the last snapshot that both have, None if they share none
    left, right:      the snapshots after it on each side, oldest first
    first_difference: position of the first token that differs; None if one only goes on where the
                      other ends
    """

    ancestor: SnapshotView | None
    left: list[SnapshotView]
    right: list[SnapshotView]
    first_difference: int | None
    common_tokens: int
    left_tokens: int
    right_tokens: int


class BranchView(Wire):
    """A session of a tree."""

    id: str
    head: str | None
    forked_from: str | None
    labels: dict[str, str]
    created_at: float


class TreeView(Wire):
    """A page of a session, all its forks and theirs, and the snapshots that they reach.

    snapshots, sessions: the newest first, a snapshot before its parent; which may be on a later
                         page, as may be a session's head on an earlier one
    next:                the `after` of the next page, None if there is none
    """

    snapshots: list[SnapshotView]
    sessions: list[BranchView]
    next: str | None = None

    @classmethod
    def whole(cls, pages: Sequence[TreeView]) -> TreeView:
        """Of all its pages, as they came: the oldest first, and each snapshot after its parent."""
        snapshots = [one for page in pages for one in page.snapshots]
        sessions = [one for page in pages for one in page.sessions]
        return cls(snapshots=snapshots[::-1], sessions=sessions[::-1])
