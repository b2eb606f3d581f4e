"""Snapshots: reading what was committed."""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgpack

from state_store.connection import Call, Control
from state_store.errors import CorruptObject, NotFound
from state_store.fingerprint import Fingerprint
from state_store.layout import KINDS, LineageKeys, ObjectNames, ObjectRef, lineage_of, parts_of
from state_store.layout import snapshot_id as id_of
from state_store.lineages import Lineage, Lineages, Seals, tokens_digest
from state_store.records import Snapshot

_WALK = 256  # snapshots that one step of a walk towards the root reads at most
_FIRST_STEP = 16  # a walk that ends soon shall not read far ahead


class Snapshots:
    """See the methods of the same names in `StateStore`."""

    def __init__(self, control: Control, prefix: str, lineages: Lineages) -> None:
        self._control = control
        self._prefix = prefix
        self._lineages = lineages

    async def get(self, snapshot_id: str) -> Snapshot:
        """Raises NotFound, InvalidId, VaultLocked."""
        return await self._lineages.opened(await self.record(snapshot_id))

    async def record(self, snapshot_id: str) -> Snapshot:
        """As it is stored: without the meta of an encrypted tenant. Raises NotFound, InvalidId."""
        keys = LineageKeys(self._prefix, lineage_of(snapshot_id))
        async with self._control.guard() as client:
            stored = await client.hget(keys.snapshot(snapshot_id), "body")
        if stored is None:
            raise NotFound(f"no snapshot {snapshot_id}.")
        return Snapshot.unpack(stored)

    async def get_many(self, snapshot_ids: Sequence[str]) -> list[Snapshot]:
        """Those of `snapshot_ids` that are there, in one round trip to each server. Raises
        VaultLocked."""
        rows = await self._bodies(snapshot_ids)
        return [await self.opened(Snapshot.unpack(stored)) for stored in rows if stored is not None]

    async def readable(self, snapshot_ids: Sequence[str]) -> dict[str, Snapshot]:
        """As `get_many`, by id, without those that cannot be read."""
        found: dict[str, Snapshot] = {}
        for one, stored in zip(snapshot_ids, await self._bodies(snapshot_ids), strict=True):
            with contextlib.suppress(CorruptObject):
                if stored is not None:
                    found[one] = await self.opened(Snapshot.unpack(stored))
        return found

    async def newest_first(self, snapshot_ids: Sequence[str]) -> list[Snapshot]:
        """Those of `snapshot_ids` that are there."""
        found = await self.get_many(snapshot_ids)
        return sorted(found, key=lambda snapshot: -snapshot.created_at)

    async def ancestors(
        self, snapshot_id: str, beyond: int | None = None, most: int | None = None
    ) -> list[Snapshot]:
        """See `StateStore.ancestors`."""
        found: list[Snapshot] = []
        async with aclosing(self.walk(snapshot_id)) as history:
            async for snapshot in history:
                if len(found) == most or (beyond is not None and snapshot.total_tokens <= beyond):
                    break
                found.append(await self.opened(snapshot))
        return found[::-1]

    async def opened(self, snapshot: Snapshot) -> Snapshot:
        """With the meta of an encrypted tenant. Raises VaultLocked."""
        return await self._lineages.opened(snapshot)

    async def records(self, snapshot_id: str) -> list[Snapshot]:
        """The history that ends in `snapshot_id`, root first, as it is stored: without the meta of
        an encrypted tenant. Raises NotFound, InvalidId."""
        return [snapshot async for snapshot in self.walk(snapshot_id)][::-1]

    async def walk(self, snapshot_id: str | None) -> AsyncGenerator[Snapshot]:
        """`records` from the end, for as long as it is wanted; nothing for None.

        Costs round trips and reading in proportion to what is taken: each step reads twice as far
        as the one before, up to a limit. Raises NotFound, InvalidId.
        """
        step = _FIRST_STEP
        while snapshot_id is not None:
            keys = LineageKeys(self._prefix, lineage_of(snapshot_id))
            rows = await self._control.run(
                "ancestors",
                [keys.snapshot(snapshot_id)],
                keys.snapshot_prefix,
                snapshot_id,
                min(step, _WALK),
            )
            if not rows:
                raise NotFound(f"no snapshot {snapshot_id}.")
            for body in rows[1::2]:
                snapshot = Snapshot.unpack(body)
                yield snapshot
                snapshot_id = snapshot.parent
            step *= 2

    async def tokens(self, snapshot_id: str) -> array[int]:
        """All token ids of the history that ends in `snapshot_id`: uint32[total_tokens].

        Raises NotFound, InvalidId, CorruptObject, VaultLocked.
        """
        tokens = array("I")
        for log in await self.token_logs(await self.records(snapshot_id)):
            tokens.frombytes(log)
        return tokens

    async def token_logs(self, snapshots: Sequence[Snapshot]) -> list[bytes]:
        """What each of `snapshots`, of one lineage, added to its history: uint32[n], verified.

        Raises NotFound for a log that is missing, CorruptObject for one that is not what was
        committed, VaultLocked.
        """
        if not snapshots:
            return []
        seals = await self._lineages.seals(Lineage.of(snapshots[0]))
        keys = LineageKeys(self._prefix, lineage_of(snapshots[0].id))
        async with self._control.guard() as client:
            stored = await client.mget([keys.tokens(snapshot.id) for snapshot in snapshots])
        logs: list[bytes] = []
        for snapshot, log in zip(snapshots, stored, strict=True):
            if log is None:
                raise NotFound(f"the token log of snapshot {snapshot.id} is missing.")
            logs.append(log if seals is None else seals.open(log, keys.tokens(snapshot.id)))
            if identity_of(snapshot, logs[-1], seals) != snapshot.id:
                raise CorruptObject(
                    f"snapshot {snapshot.id}: its record or its token log is not what was "
                    "committed; it is not loaded."
                )
        return logs

    async def histories(self, ends: Sequence[str]) -> dict[str, list[Snapshot]]:
        """`records` of each of `ends` that can be read, by its id: all of them go on together, in
        one round trip to each server for each step of the longest walk."""
        found: dict[str, list[Snapshot]] = {}
        walks: dict[str, list[Snapshot]] = {end: [] for end in ends}
        step = _FIRST_STEP
        while walks:
            calls: list[Call] = []
            for end, walked in walks.items():
                at = (walked[-1].parent if walked else None) or end
                keys = LineageKeys(self._prefix, lineage_of(at))
                arguments = [keys.snapshot_prefix, at, min(step, _WALK)]
                calls.append(([keys.snapshot(at)], arguments))
            replies = await self._control.run_many("ancestors", calls)
            for (end, walked), rows in zip(list(walks.items()), replies, strict=True):
                try:
                    walked += map(Snapshot.unpack, rows[1::2])
                except CorruptObject:
                    rows = []
                if not rows:
                    del walks[end]
                elif walked[-1].parent is None:
                    found[end] = walks.pop(end)[::-1]
            step *= 2
        return found

    async def stored_boundaries(
        self, fingerprint: Fingerprint, ranks: int, page_hashes: Sequence[str]
    ) -> tuple[int, ...]:
        """See `StateStore.stored_boundaries`."""
        names = [ObjectNames(self._prefix, fingerprint.id, rank) for rank in range(ranks)]
        sizes = {"kv": fingerprint.kv_payload_bytes, "state": fingerprint.state_payload_bytes}
        found: dict[str, list[bool]] = {}
        async with self._control.guard() as client:
            for kind in KINDS:
                parts = range(parts_of(sizes[kind]))
                pipeline = client.pipeline(transaction=False)  # in a cluster they are in many slots
                for page_hash in page_hashes:
                    for part in parts:
                        for name in names:
                            pipeline.exists(name.key(ObjectRef(kind, page_hash, part)))
                answers = iter(await pipeline.execute() if page_hashes else [])
                each = len(parts) * ranks
                found[kind] = [sum(next(answers) for _ in range(each)) == each for _ in page_hashes]
        whole = found["kv"].index(False) if False in found["kv"] else len(page_hashes)
        return tuple(count + 1 for count in range(whole) if found["state"][count])

    async def _bodies(self, snapshot_ids: Sequence[str]) -> list[bytes | None]:
        commands = [
            ("HGET", LineageKeys(self._prefix, lineage_of(one)).snapshot(one), "body")
            for one in snapshot_ids
        ]
        return await self._control.exchange(commands)


def identity_of(snapshot: Snapshot, token_log: bytes, seals: Seals | None) -> str:
    """The id of a snapshot: a hash of what it names, and of the tokens that it adds.

    token_log: in the clear; seals: of the snapshot's lineage
    """
    lineage = lineage_of(snapshot.session_id)
    identity = msgpack.packb(
        [
            lineage,
            snapshot.parent,
            snapshot.total_tokens,
            snapshot.boundary,
            snapshot.fingerprint_id,
            snapshot.ranks,
            snapshot.page_chain,
            snapshot.checkpoints,
            tokens_digest(token_log, seals),
            *([] if snapshot.files is None else [snapshot.files]),
        ]
    )
    return id_of(lineage, hashlib.sha256(identity).hexdigest()[:32])
