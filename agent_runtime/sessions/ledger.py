"""The ledger of effects that is kept with the sessions: a branch is a session, a point a snapshot.

What a fork inherits follows from the chain of snapshots, and forking copies nothing. An entry lives
as long as any session of its lineage. It is found by what it does, so that a look costs the same
however long the history is; the chain is walked only where another branch did the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import msgpack

from agent_runtime.sessions.points import Point, points_of
from state_store.effects import EffectRecord
from state_store.errors import CorruptObject, NotFound, StoreError
from state_store.layout import is_snapshot_id
from state_store.store import StateStore
from tools.effects import Entry, State

_VERSION = 1

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
        return _own(await self._entries(entry), entry)

    async def begin(self, entry: Entry) -> Entry | None:
        known: Entry | None = None

        def begun(entries: list[Entry]) -> list[Entry] | None:
            nonlocal known
            known = _own(entries, entry)
            return None if known is not None else [*entries, entry]

        await self._change(entry, begun)
        if known is None:
            try:
                await self._store.confirm(self._durability)
            except StoreError:  # then the call is not made
                await self._change(entry, lambda entries: [o for o in entries if o != entry])
                raise
        return known

    async def end(self, entry: Entry) -> None:
        def ended(entries: list[Entry]) -> list[Entry] | None:
            known = _own(entries, entry)
            if known is None:
                return [*entries, entry]
            if known.state is State.DONE:
                return None
            return [entry if other is known else other for other in entries]

        await self._change(entry, ended, happened=True)

    async def inherited(self, entry: Entry) -> list[Entry]:
        others = [one for one in await self._entries(entry) if one.branch != entry.branch]
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
        very_same = [other for other in others if other.call_id == entry.call_id]
        # Snapshots are named by what they hold, so that branches which say the same after they have
        # parted are at one point: only what a branch began with did it get from others.
        if very_same and entry.point not in await self._began_with(entry.branch):
            very_same = []
        return [
            one for one in others if one in very_same or one.branch in branches.get(one.point, ())
        ]

    async def of(self, session_id: str, *, lineage: bool = False) -> list[Entry]:
        """What the session's tools have done, in the order it was started.

        lineage: also what those of all its forks and of what it was forked from have
        """
        if self._tenant is not None:
            await self._store.session(session_id, tenant=self._tenant)
        values = await self._store.effects.all(session_id)
        found = [one for value in values for one in entries_of(value)]
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

    async def _entries(self, entry: Entry) -> list[Entry]:
        """All of the lineage that do what `entry` does."""
        await self._require_own(entry)
        return _unpack(await self._store.effects.get(entry.branch, name_of(entry)))

    async def _change(
        self,
        entry: Entry,
        change: Callable[[list[Entry]], list[Entry] | None],
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
                entry.branch, name_of(entry), seen, packed_of(entries), happened=happened
            ):
                return

    async def _require_own(self, entry: Entry) -> None:
        """Raises NotFound if the branch is another tenant's."""
        if self._tenant is not None:
            await self._store.session(entry.branch, tenant=self._tenant)


def entries_of(value: bytes) -> list[Entry]:
    """Of a record in the store. Raises CorruptObject."""
    version, rows = msgpack.unpackb(value)
    if version != _VERSION:
        raise CorruptObject(f"a ledger entry has version {version}, not {_VERSION}.")
    return [Entry.model_validate(row) for row in rows]


def packed_of(entries: Sequence[Entry]) -> bytes:
    """As they are stored."""
    rows = [one.model_dump(mode="json") for one in entries]
    return bytes(msgpack.packb([_VERSION, rows]))


def name_of(entry: Entry) -> str:
    """Of the record that has it, with all that do the same."""
    return f"{entry.tool}/{entry.arguments_hash}"


def _own(entries: list[Entry], entry: Entry) -> Entry | None:
    same = (one for one in entries if one.branch == entry.branch and one.call_id == entry.call_id)
    return next(same, None)


def _unpack(record: EffectRecord) -> list[Entry]:
    return [] if record.value is None else entries_of(record.value)
