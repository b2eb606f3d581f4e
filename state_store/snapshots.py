"""Snapshots: reading what was committed."""

from __future__ import annotations

from array import array

from state_store.connection import Control
from state_store.errors import NotFound
from state_store.layout import LineageKeys, ObjectNames, lineage_of
from state_store.records import Snapshot

_WALK = 256  # snapshots that one step of a walk towards the root reads


class Snapshots:
    """See the methods of the same names in `StateStore`."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix

    async def get(self, snapshot_id: str) -> Snapshot:
        """Raises NotFound, InvalidId."""
        keys = LineageKeys(self._prefix, lineage_of(snapshot_id))
        async with self._control.guard() as client:
            stored = await client.hget(keys.snapshot(snapshot_id), "body")
        if stored is None:
            raise NotFound(f"no snapshot {snapshot_id}.")
        return Snapshot.unpack(stored)

    async def ancestors(self, snapshot_id: str) -> list[Snapshot]:
        """The history that ends in `snapshot_id`, root first. Raises NotFound, InvalidId."""
        keys = LineageKeys(self._prefix, lineage_of(snapshot_id))
        found: list[Snapshot] = []
        next_id: str | None = snapshot_id
        while next_id is not None:
            rows = await self._control.run(
                "ancestors", [keys.snapshot(next_id)], keys.snapshot_prefix, next_id, _WALK
            )
            if not rows:
                raise NotFound(f"no snapshot {next_id}.")
            found += [Snapshot.unpack(body) for body in rows[1::2]]
            next_id = found[-1].parent
        return found[::-1]

    async def tokens(self, snapshot_id: str) -> array[int]:
        """All token ids of the history that ends in `snapshot_id`: uint32[total_tokens]."""
        history = await self.ancestors(snapshot_id)
        keys = LineageKeys(self._prefix, lineage_of(snapshot_id))
        async with self._control.guard() as client:
            deltas = await client.mget([keys.tokens(snapshot.id) for snapshot in history])
        tokens = array("I")
        for snapshot, delta in zip(history, deltas, strict=True):
            if delta is None:
                raise NotFound(f"the token log of snapshot {snapshot.id} is missing.")
            tokens.frombytes(delta)
        return tokens

    async def boundary_is_stored(self, snapshot_id: str) -> bool:
        """Whether the state at the snapshot's boundary is there, on every rank.

        A quick look for showing residency; a load checks every page and every byte.
        """
        snapshot = await self.get(snapshot_id)
        if snapshot.boundary_hash is None:
            return False
        keys = [
            ObjectNames(self._prefix, snapshot.fingerprint_id, rank).key(ref)
            for ref in snapshot.refs("state", [snapshot.boundary_hash])
            for rank in range(snapshot.ranks)
        ]
        async with self._control.guard() as client:
            return bool(await client.exists(*keys) == len(keys))
