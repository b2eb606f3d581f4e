"""What a tenant's sessions take, counted exactly by walking all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import xxhash

from state_store.archive.cold_files import ColdFile
from state_store.archive.targets import Target, look, targets_of
from state_store.connection import Control
from state_store.errors import NotFound
from state_store.history import Histories, Tree
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.quotas import count_attached
from state_store.records import Snapshot

_BATCH = 256


@dataclass(frozen=True)
class Usage:
    """One tenant's share of a store, as of one walk.

    tokens:         of all histories, each branch's counted once
    own_bytes:      objects that exactly one session reaches
    shared_bytes:   objects that several of the tenant's sessions reach, each counted once
    archived_bytes: those of both that are in the archive and not in Redis
    file_bytes:     of the files that each snapshot adds to its parent's
    archived_file_bytes: of contents of files that are in the archive and not in Redis, as stored
    effect_bytes:   records of what tools have done, as they are stored
    attached_bytes: of what is kept with sessions besides, as it is stored: responses, conversations
    note_bytes:     of notes, as they are stored: turns that run, answers by their idempotency keys,
                    responses that are being made

    Bytes of objects are those of all ranks, as on the device: an economy class stores fewer.
    """

    tenant: str
    sessions: int
    snapshots: int
    tokens: int
    own_bytes: int
    shared_bytes: int
    archived_bytes: int
    file_bytes: int
    archived_file_bytes: int
    effect_bytes: int
    attached_bytes: int
    note_bytes: int


@dataclass
class _Tally:
    own: int = 0
    shared: int = 0
    archived: int = 0


class Usages:
    """See the methods of the same names in `StateStore`."""

    def __init__(self, control: Control, prefix: str, histories: Histories) -> None:
        self._control = control
        self._prefix = prefix
        self._histories = histories

    async def tenants(self) -> list[str]:
        """Names of those that have sessions, sorted."""
        before, after = f"{self._prefix}:{{tenant:", "}:sessions"
        return sorted(
            {
                key.decode().removeprefix(before).removesuffix(after)
                async for keys in self._control.scan(f"{before}*{after}")
                for key in keys
            }
        )

    async def report(self, tenant: str) -> Usage:
        listed = TenantKeys(self._prefix, tenant).sessions
        async with self._control.guard() as client:
            session_ids = [raw.decode() for raw in await client.zrange(listed, 0, -1)]
        lineages = {lineage_of(session_id) for session_id in session_ids}
        sessions = snapshots = tokens = file_bytes = archived_file_bytes = effect_bytes = 0
        tally = _Tally()
        owners: dict[int, str | None] = {}  # digest of an object's name -> the one that reaches it
        for lineage in sorted(lineages):
            try:
                tree = await self._histories.tree(lineage)
            except NotFound:  # deleted meanwhile
                continue
            reached = _reached(tree)
            sessions += len(tree.sessions)
            snapshots += len(reached)
            for one, owner in reached.items():
                snapshot = tree.snapshots[one]
                parent = tree.snapshots[snapshot.parent] if snapshot.parent else None
                file_bytes += snapshot.file_bytes
                tokens += snapshot.total_tokens - (parent.total_tokens if parent else 0)
                await self._add(tally, owners, snapshot, owner)
            keys = LineageKeys(self._prefix, lineage)
            async with self._control.guard() as client:
                counted = await client.hget(keys.usage, "effects")
                cold = await client.hvals(keys.cold_files)
            effect_bytes += int(counted or 0)
            archived_file_bytes += sum(ColdFile.parse(one).size for one in cold)
        attached = await count_attached(self._control, self._prefix, lineages)
        places = TenantKeys(self._prefix, tenant).places_of_notes
        notes = int(await self._control.run("count_notes", places))
        return Usage(
            tenant, sessions, snapshots, tokens, tally.own, tally.shared, tally.archived,
            file_bytes, archived_file_bytes, effect_bytes, attached, notes,
        )  # fmt: skip

    async def _add(
        self,
        tally: _Tally,
        owners: dict[int, str | None],
        snapshot: Snapshot,
        owner: str | None,
    ) -> None:
        """Count a snapshot's objects; one that another session was counted for is shared."""
        new: list[Target] = []
        for target in targets_of(self._prefix, [snapshot]):
            digest = xxhash.xxh3_64_intdigest(target.pins)
            size = target.decoded_bytes * len(target.names)
            if digest not in owners:
                owners[digest] = owner
                new.append(target)
                if owner is None:
                    tally.shared += size
                else:
                    tally.own += size
            elif owners[digest] is not None and owners[digest] != owner:
                owners[digest] = None
                tally.own -= size
                tally.shared += size
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            for target, found in zip(batch, await look(self._control, batch), strict=True):
                if found.cold is not None:
                    absent = len(target.names) - found.present
                    tally.archived += target.decoded_bytes * absent


def _reached(tree: Tree) -> dict[str, str | None]:
    """Every snapshot that a session reaches, and which: None if several do."""
    owners: dict[str, str | None] = {}
    waiting: Iterable[Snapshot] = reversed(tree.snapshots.values())  # children before parents
    heads: dict[str, list[str]] = {}
    for session in tree.sessions:
        if session.head is not None:
            heads.setdefault(session.head, []).append(session.id)
    for snapshot in waiting:
        above = {owners[child.id] for child in tree.children(snapshot.id) if child.id in owners}
        reaching: set[str | None] = above | set(heads.get(snapshot.id, ()))
        if reaching:
            owners[snapshot.id] = reaching.pop() if len(reaching) == 1 else None
    return owners


__all__: Sequence[str] = ("Usage", "Usages")
