"""The ledger of effects that is kept with the sessions: a branch is a session, a point a snapshot.

What a fork inherits follows from the chain of snapshots, and forking copies nothing. An entry lives
as long as any session of its lineage. It is found by what it does, so that a look costs the same
however long the history is; the chain is walked only where another branch did the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from agent_runtime.messages.points import Point, points_of
from agent_runtime.sessions.ledger_records import (
    MOST_CALLS,
    Call,
    Calls,
    calls_of,
    entries_of,
    name_of,
    name_of_entry,
    name_of_full,
    name_of_imported,
    packed,
    packed_calls,
)
from state_store.effects import EffectRecord
from state_store.errors import NotFound, StoreError
from state_store.layout import is_snapshot_id
from state_store.store import StateStore
from tools.effects import Entry, State

IMPORTED = "imported"
"""The branch of what happened before a session was exported, where it was imported."""


_NOTHING = EffectRecord(None, b"")


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
        await self._require_own(entry)
        return _only(await self._read(entry, name_of_entry(entry)))

    async def begin(self, entry: Entry) -> Entry | None:
        seen, listed = await self._look(entry)
        known = _only(seen)
        if known is not None:
            return known
        await self._list(entry, listed)

        def begun(standing: Entry | None) -> Entry | None:
            nonlocal known
            known = standing
            return entry if standing is None else None

        await self._change(entry, seen, begun)
        if known is None:
            try:
                await self._store.confirm(self._durability)
            except StoreError:  # then the call is not made
                await self._forget(entry)
                raise
        return known

    async def end(self, entry: Entry) -> None:
        seen, listed = await self._look(entry)
        if _only(seen) is None:
            await self._list(entry, listed, happened=True)

        def ended(standing: Entry | None) -> Entry | None:
            is_done = standing is not None and standing.state is State.DONE
            return None if is_done else entry

        await self._change(entry, seen, ended, happened=True)

    async def inherited(self, entry: Entry) -> list[Entry]:
        await self._require_own(entry)
        imported = entries_of([(await self._read(entry, name_of_imported(entry))).value])
        others = [one for one in await self._calls(entry) if one.branch != entry.branch]
        every = [*map(Call.of, imported), *others]
        if not every:
            return []
        chain: list[Point] = []
        if is_snapshot_id(entry.point):
            chain = await self._points(entry.point)
        # Calls made at a snapshot lead to the next one: they are of the session that the snapshot
        # is of, or of the one that went on from there.
        branches = {one.id: {IMPORTED} for one in chain}
        for earlier, later in itertools.pairwise(chain):
            branches[earlier.id] |= {earlier.session_id, later.session_id}
        place = (entry.point, entry.position)
        very_same = {one for one in every if (one.point, one.position) == place}
        # Snapshots are named by what they hold, so that branches which say the same after they have
        # parted are at one point: only what a branch began with did it get from others.
        if very_same and entry.point not in await self._began_with(entry.branch):
            very_same = set()

        def is_inherited(call: Call) -> bool:
            return call in very_same or call.branch in branches.get(call.point, ())

        names = [name_of_entry(one.made(entry)) for one in others if is_inherited(one)]
        records = await self._store.effects.get_many(entry.branch, names)
        made = [one for one in imported if is_inherited(Call.of(one))]
        return [*made, *entries_of([record.value for record in records])]

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

    async def _look(self, entry: Entry) -> list[EffectRecord]:
        """The record of its entry, and the list that is to name it."""
        await self._require_own(entry)
        names = [name_of_entry(entry), name_of(entry)]
        return await self._store.effects.get_many(entry.branch, names)

    async def _read(self, entry: Entry, name: str) -> EffectRecord:
        return await self._store.effects.get(entry.branch, name)

    async def _calls(self, entry: Entry) -> list[Call]:
        """All of the lineage that do what `entry` does, each once, in the order they were begun.
        Some may not have been."""
        calls = calls_of((await self._read(entry, name_of(entry))).value)
        names = [name_of_full(entry, number) for number in range(calls.full)]
        full = await self._store.effects.get_many(entry.branch, names)
        every = [one for record in full for one in calls_of(record.value).last]
        return list(dict.fromkeys([*every, *calls.last]))

    async def _list(self, entry: Entry, seen: EffectRecord, *, happened: bool = False) -> None:
        """Before its entry is there, so that none is that forks would not see."""
        own, effects = Call.of(entry), self._store.effects
        while True:
            full, last = calls_of(seen.value)
            if own in last:
                return
            if len(last) == MOST_CALLS:  # the same by whoever else is at it, or died after it
                name, value = name_of_full(entry, full), packed_calls(Calls(0, last))
                await effects.replace(entry.branch, name, _NOTHING, value, happened=happened)
                full, last = full + 1, []
            name, value = name_of(entry), packed_calls(Calls(full, [*last, own]))
            if await effects.replace(entry.branch, name, seen, value, happened=happened):
                return
            seen = await effects.get(entry.branch, name)

    async def _change(
        self,
        entry: Entry,
        seen: EffectRecord,
        change: Callable[[Entry | None], Entry | None],
        *,
        happened: bool = False,
    ) -> None:
        """change: its entry as it is to be, None to leave it; happened: see `Effects`"""
        name, effects = name_of_entry(entry), self._store.effects
        while (changed := change(_only(seen))) is not None:
            value = packed([changed])
            if await effects.replace(entry.branch, name, seen, value, happened=happened):
                return
            seen = await effects.get(entry.branch, name)

    async def _forget(self, entry: Entry) -> None:
        """It did not begin, unless somebody else has said more of it since."""
        seen = await self._read(entry, name_of_entry(entry))
        if _only(seen) == entry:
            await self._store.effects.replace(
                entry.branch, name_of_entry(entry), seen, packed([]), happened=True
            )

    async def _require_own(self, entry: Entry) -> None:
        """Raises NotFound if the branch is another tenant's."""
        if self._tenant is not None:
            await self._store.session(entry.branch, tenant=self._tenant)


def _only(record: EffectRecord) -> Entry | None:
    """The entry of a record. Raises CorruptObject."""
    return next(iter(entries_of([record.value])), None)
