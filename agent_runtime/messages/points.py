"""Where in a history tools were called: at its snapshots, and at those that it has no more.

A history that is rewritten has one snapshot in the place of several, which names them in its meta:

    before   ── a ── b ── c             points  a, b, c
    after    ── a ── b': rewritten ── d         a, [b, c,] b', d

Each turn is named once at most, however often it is rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from state_store.records import Snapshot

_KEY = "replaced"  # in the meta of a snapshot


@dataclass(frozen=True)
class Point:
    """id:     of a snapshot
    session_id: that it is of
    files:  that go with it
    within: id of the snapshot that has taken its place; its own if none has
    """

    id: str
    session_id: str
    files: str | None
    within: str


def points_of(history: Sequence[Snapshot]) -> list[Point]:
    """Of snapshots, one after the other; what each has taken the place of comes before it."""
    return [
        point
        for one in history
        for point in (
            *replaced_in(one),
            Point(one.id, one.session_id, one.files, one.id),
        )
    ]


def replaced_in(snapshot: Snapshot) -> list[Point]:
    """What it has taken the place of, oldest first."""
    rows = snapshot.meta.get(_KEY, ())
    return [Point(place, session, files, snapshot.id) for place, session, files in rows]


def meta_of(points: Sequence[Point]) -> dict[str, Any]:
    """Of a snapshot that takes the place of these."""
    return {_KEY: [[one.id, one.session_id, one.files] for one in points]} if points else {}
