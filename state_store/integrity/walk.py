"""What one walk over a store has seen so far, kept small: ids and pins, never payloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from state_store.archive.names import Generation
from state_store.connection import Control
from state_store.errors import CorruptObject
from state_store.integrity.report import Kind, Problem, Report
from state_store.records import SessionBody

BATCH = 512  # small commands sent in one round trip

_T = TypeVar("_T")


@dataclass
class Lineage:
    """Ids that the keys of one lineage name, listed or not."""

    sessions: set[str] = field(default_factory=set)
    snapshots: set[str] = field(default_factory=set)
    logs: set[str] = field(default_factory=set)
    leases: set[str] = field(default_factory=set)
    listed: bool = False


@dataclass
class Walk:
    """state_store: where it goes, and what it has learnt.

    bodies:   readable session records, without their meta
    labels:   of sessions that have any
    pins:     ids of all commits that may hold something: live, dead, in progress or abandoned
    live:     those of live snapshots
    unpinned: pins keys of objects that a live snapshot names and does not hold
    named:    fingerprint ids that live snapshots name
    gaps:     records that are missing though something names them; while there are any, nothing
              is let go that one of them may have held
    """

    control: Control
    prefix: str
    report: Report = field(default_factory=Report)
    bodies: dict[str, SessionBody] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    tenants: dict[str, set[str]] = field(default_factory=dict)
    pins: set[bytes] = field(default_factory=set)
    live: set[bytes] = field(default_factory=set)
    unpinned: set[bytes] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    gaps: int = 0
    _known: set[tuple[Kind, str, str]] = field(default_factory=set)

    def found(
        self, kind: Kind, subject: str | bytes, message: str, *, repairable: bool, **detail: Any
    ) -> None:
        """Tell of a problem, once: two snapshots may share what is wrong."""
        text = subject.decode(errors="replace") if isinstance(subject, bytes) else subject
        if (kind, text, message) not in self._known:
            self._known.add((kind, text, message))
            self.report.problems.append(Problem(kind, text, message, repairable, detail))


def batches(items: Sequence[_T], size: int = BATCH) -> Iterator[Sequence[_T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def pairs(flat: Sequence[_T]) -> Iterator[tuple[_T, _T]]:
    return zip(flat[::2], flat[1::2], strict=True)


def is_generation(text: bytes) -> bool:
    try:
        Generation.parse(text)
    except CorruptObject:
        return False
    return True
