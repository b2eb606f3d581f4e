"""The ledger of effects that is kept with the sessions: a branch is a session, a point a snapshot.

What a fork inherits follows from the chain of snapshots, and forking copies nothing. An entry lives
as long as any session of its lineage. It is found by what it does, so that a look costs the same
however long the history is; the chain is walked only where another branch did the same.

    tool, hash of arguments ──> entries of all calls that do the same, each a few hundred bytes
                                   └─ name of a result ──> the result, which is written once
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from agent_runtime.messages.points import Point, points_of
from state_store.effects import EffectRecord
from state_store.errors import CorruptObject, NotFound, StoreError
from state_store.layout import is_snapshot_id
from state_store.store import StateStore
from tools.effects import Entry, State
from tools.results import ToolResult

_INLINE = 1  # version of a record whose entries have their results in them
_APART = 2  # of one whose entries name them
_RESULT = "result"

IMPORTED = "imported"
"""The branch of what happened before a session was exported, where it was imported."""


class StoreLedger:
    """`tools.effects.Ledger` in a store. Every method raises what the store raises.

    durability: that the beginning of a call must reach before it is made; `memory` is lost with
                the server, and then an effect may happen again
    """

    def __init__(
        self, store: StateStore, *, tenant: str | None = None, durability: str = "fsync"
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._durability = durability

    async def find(self, entry: Entry) -> Entry | None:
        known = _own(await self._entries(entry), entry)
        return None if known is None else await self._whole(known)

    async def begin(self, entry: Entry) -> Entry | None:
        known: _Stored | None = None

        def begun(entries: list[_Stored]) -> list[_Stored] | None:
            nonlocal known
            known = _own(entries, entry)
            return None if known is not None else [*entries, _Stored(entry)]

        await self._change(entry, begun)
        if known is None:
            try:
                await self._store.confirm(self._durability)
            except StoreError:  # then the call is not made
                await self._change(entry, lambda found: [o for o in found if o.entry != entry])
                raise
        return None if known is None else await self._whole(known)

    async def end(self, entry: Entry) -> None:
        known = _own(await self._entries(entry), entry)
        if known is not None and known.entry.state is State.DONE:
            return
        stored = await self._with_result_apart(entry)

        def ended(entries: list[_Stored]) -> list[_Stored] | None:
            known = _own(entries, entry)
            if known is None:
                return [*entries, stored]
            if known.entry.state is State.DONE:
                return None
            return [stored if other is known else other for other in entries]

        await self._change(entry, ended, happened=True)

    async def inherited(self, entry: Entry) -> list[Entry]:
        found = await self._entries(entry)
        others = [one for one in found if one.entry.branch != entry.branch]
        if not others:
            return []
        chain: list[Point] = []
        if is_snapshot_id(entry.point):
            chain = await self._points(entry.point)
        # Calls made at a snapshot lead to the next one: they are of the session that the snapshot
        # is of, or of the one that went on from there.
        branches = {one.id: {IMPORTED} for one in chain}
        for earlier, later in itertools.pairwise(chain):
            branches[earlier.id] |= {earlier.session_id, later.session_id}
        very_same = [other for other in others if other.entry.call_id == entry.call_id]
        # Snapshots are named by what they hold, so that branches which say the same after they have
        # parted are at one point: only what a branch began with did it get from others.
        if very_same and entry.point not in await self._began_with(entry.branch):
            very_same = []
        return [
            await self._whole(one)
            for one in others
            if one in very_same or one.entry.branch in branches.get(one.entry.point, ())
        ]

    async def of(self, session_id: str, *, lineage: bool = False) -> list[Entry]:
        """What the session's tools have done, in the order it was started.

        lineage: also what those of all its forks and of what it was forked from have
        """
        if self._tenant is not None:
            await self._store.session(session_id, tenant=self._tenant)
        values = await self._store.effects.all(session_id)
        found = entries_of(values)
        chosen = [one for one in found if lineage or one.branch == session_id]
        return sorted(chosen, key=lambda one: (one.at, one.position))

    async def _began_with(self, session_id: str) -> set[str]:
        session = await self._store.session(session_id)
        head = session.body.forked_at
        if head is None:
            return set()
        try:
            chain = await self._points(head)
        except NotFound:  # since then it was rewritten
            chain = [] if session.head is None else await self._points(session.head)
        ids = [one.id for one in chain]
        return set(ids[: ids.index(head) + 1]) if head in ids else set()

    async def _points(self, snapshot_id: str) -> list[Point]:
        return points_of(await self._store.ancestors(snapshot_id, tenant=self._tenant))

    async def _entries(self, entry: Entry) -> list[_Stored]:
        """All of the lineage that do what `entry` does."""
        await self._require_own(entry)
        return _unpack(await self._store.effects.get(entry.branch, name_of(entry)))

    async def _change(
        self,
        entry: Entry,
        change: Callable[[list[_Stored]], list[_Stored] | None],
        *,
        happened: bool = False,
    ) -> None:
        """change: the entries as they are to be, None to leave them; happened: see `Effects`"""
        await self._require_own(entry)
        while True:
            seen = await self._store.effects.get(entry.branch, name_of(entry))
            entries = change(_unpack(seen))
            if entries is None:
                return
            if await self._store.effects.replace(
                entry.branch, name_of(entry), seen, _packed(entries), happened=happened
            ):
                return

    async def _with_result_apart(self, entry: Entry) -> _Stored:
        """Other entries of the record are written again with each of them, and it only once."""
        if entry.result is None:
            return _Stored(entry)
        stored = _Stored(entry.model_copy(update={"result": None}), secrets.token_hex(16))
        value = msgpack.packb([_APART, stored.result_name, entry.result.model_dump(mode="json")])
        await self._store.effects.replace(
            entry.branch, _name_of_result(stored), EffectRecord(None, b""), value, happened=True
        )
        return stored

    async def _whole(self, stored: _Stored) -> Entry:
        """With its result."""
        if not stored.result_name:
            return stored.entry
        name = _name_of_result(stored)
        record = await self._store.effects.get(stored.entry.branch, name)
        return _joined(stored, {} if record.value is None else _results([record.value]))

    async def _require_own(self, entry: Entry) -> None:
        """Raises NotFound if the branch is another tenant's."""
        if self._tenant is not None:
            await self._store.session(entry.branch, tenant=self._tenant)


@dataclass(frozen=True)
class _Stored:
    """An entry as a record has it. result_name: of its result, "" if it is in the entry or none"""

    entry: Entry
    result_name: str = ""


def entries_of(values: Iterable[bytes]) -> list[Entry]:
    """Of records in the store, results among them. Raises CorruptObject."""
    every = list(values)
    results = _results(every)
    return [_joined(one, results) for value in every for one in _stored(value)]


def packed_of(entries: Sequence[Entry]) -> bytes:
    """A record that has their results in it, as exports have them."""
    rows = [one.model_dump(mode="json") for one in entries]
    return bytes(msgpack.packb([_INLINE, rows]))


def name_of(entry: Entry) -> str:
    """Of the record that has it, with all that do the same."""
    return f"{entry.tool}/{entry.arguments_hash}"


def _name_of_result(stored: _Stored) -> str:
    return f"{name_of(stored.entry)}/{stored.result_name}"


def _own(entries: list[_Stored], entry: Entry) -> _Stored | None:
    for one in entries:
        if one.entry.branch == entry.branch and one.entry.call_id == entry.call_id:
            return one
    return None


def _unpack(record: EffectRecord) -> list[_Stored]:
    return [] if record.value is None else _stored(record.value)


def _packed(entries: Iterable[_Stored]) -> bytes:
    rows = []
    for one in entries:
        row = one.entry.model_dump(mode="json")
        rows.append({**row, _RESULT: one.result_name} if one.result_name else row)
    return bytes(msgpack.packb([_APART, rows]))


def _stored(value: bytes) -> list[_Stored]:
    """None in the record of a result. Raises CorruptObject."""
    version, rows, *result = _parts(value)
    if result:
        return []
    found = []
    with _reading():
        for row in rows:
            apart = version == _APART and isinstance(row.get(_RESULT), str)
            name = row.pop(_RESULT) if apart else ""
            found.append(_Stored(Entry.model_validate(row), name))
    return found


def _results(values: Iterable[bytes]) -> dict[str, ToolResult]:
    """By name, of those records that are of results."""
    found = {}
    for value in values:
        _, name, *result = _parts(value)
        with _reading():
            if result:
                found[name] = ToolResult.model_validate(result[0])
    return found


def _joined(stored: _Stored, results: dict[str, ToolResult]) -> Entry:
    if not stored.result_name:
        return stored.entry
    if stored.result_name not in results:
        raise CorruptObject(f"the ledger has lost the result of a call of {stored.entry.tool}.")
    return stored.entry.model_copy(update={"result": results[stored.result_name]})


def _parts(value: bytes) -> list[Any]:
    """Version, and what that has."""
    with _reading():
        version, content, *more = msgpack.unpackb(value)
    if version not in (_INLINE, _APART):
        raise CorruptObject(f"a ledger entry has version {version}, which is not known here.")
    return [version, content, *more]


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise CorruptObject(f"a ledger entry is damaged in the store: {error!r:.200}") from error
