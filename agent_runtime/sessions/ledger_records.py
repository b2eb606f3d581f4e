"""Records of the ledger: what is under which name in `StateStore.effects`.

    tool, hash of arguments ──> calls of it that were begun last, a few
            ├─ number ────────> as many as go into a list, and no more are added
            ├─ key of a call ─> its entry, with its result
            └─ "imported" ────> entries that were imported with the session

So a call writes its own entry and a short list, however often the like of it was made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgpack

from state_store.errors import CorruptObject
from tools.effects import Entry

MOST_CALLS = 16  # of a list
_ENTRIES, _CALLS = 1, 2  # what a record has
_PARTS = {_ENTRIES: 1, _CALLS: 2}


class Call(NamedTuple):
    """Names a call among those that do the same."""

    branch: str
    point: str
    position: int

    @classmethod
    def of(cls, entry: Entry) -> Call:
        return cls(entry.branch, entry.point, entry.position)

    def made(self, alike: Entry) -> Entry:
        """Its entry as far as this says. alike: one that does the same"""
        return alike.model_copy(update=self._asdict())


class Calls(NamedTuple):
    """Begun last. full: how many lists came before"""

    full: int
    last: list[Call]


def name_of(entry: Entry) -> str:
    """Of the list of calls that do what it does."""
    return f"{entry.tool}/{entry.arguments_hash}"


def name_of_full(entry: Entry, number: int) -> str:
    return f"{name_of(entry)}/{number}"


def name_of_entry(entry: Entry) -> str:
    return f"{name_of(entry)}/{entry.key}"


def name_of_imported(entry: Entry) -> str:
    return f"{name_of(entry)}/imported"


def packed(entries: Sequence[Entry]) -> bytes:
    rows = [one.model_dump(mode="json") for one in entries]
    return bytes(msgpack.packb([_ENTRIES, rows]))


def packed_calls(calls: Calls) -> bytes:
    return bytes(msgpack.packb([_CALLS, calls.full, calls.last]))


def entries_of(values: Iterable[bytes | None]) -> list[Entry]:
    """Of any records; None has none. Raises CorruptObject."""
    found: list[Entry] = []
    for kind, rows, *_ in map(_parts, values):
        if kind == _ENTRIES:
            with _reading():
                found += [Entry.model_validate(row) for row in rows]
    return found


def calls_of(value: bytes | None) -> Calls:
    """Of the record of a list; None has none. Raises CorruptObject."""
    if value is None:
        return Calls(0, [])
    with _reading():
        _, full, rows = _parts(value)  # no other kind has as many
        return Calls(int(full), [Call(str(one), str(point), int(at)) for one, point, at in rows])


def _parts(value: bytes | None) -> list[Any]:
    """Kind, and what that has."""
    if value is None:
        return [_ENTRIES, []]
    with _reading():
        kind, *content = msgpack.unpackb(value)
        if len(content) == _PARTS.get(kind):
            return [kind, *content]
    raise CorruptObject(f"a record of the ledger is of kind {kind!r:.20}, not known here.")


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise CorruptObject(f"a ledger entry is damaged in the store: {error!r:.200}") from error
