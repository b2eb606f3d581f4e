"""Letting go: abandoned commits, and snapshots that nothing holds any more.

Every step is idempotent and small, so a crash at any point is finished by the next call. An
object without pins is not deleted but expires after a grace time: a commit that has just seen it
may still pin it. Only what a deleted snapshot of an encrypted tenant held is shredded at once, but
for files that a session was told will be there for a turn.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Sequence

import msgpack

from state_store.connection import Command, Control
from state_store.errors import CorruptObject
from state_store.files import TTL
from state_store.labels import forget_labels, labels_of
from state_store.layout import LineageKeys, ObjectNames, ObjectRef
from state_store.records import Snapshot
from state_store.recovering import REPAIR

GRACE = 60  # seconds
_BATCH = 512

logger = logging.getLogger(__name__)


def new_pin_id() -> str:
    return secrets.token_hex(16)


def keys_to_pin(prefix: str, snapshot: Snapshot, ref: ObjectRef) -> list[bytes]:
    """What `lua/pin.lua` takes."""
    names = _names(prefix, snapshot)
    beside = [names[0].pins_key(ref), names[0].cold_key(ref), names[0].seed_key(ref)]
    return [*beside, *(n.key(ref) for n in names)]


def _keys_to_unpin(prefix: str, snapshot: Snapshot, ref: ObjectRef) -> list[bytes]:
    """What `lua/unpin.lua` takes."""
    names = _names(prefix, snapshot)
    first = names[0]
    beside = [first.pins_key(ref), first.cold_key(ref), first.condemned_key(ref)]
    return [*beside, first.seed_key(ref), *(n.key(ref) for n in names)]


def _names(prefix: str, snapshot: Snapshot) -> list[ObjectNames]:
    return [ObjectNames(prefix, snapshot.fingerprint_id, rank) for rank in range(snapshot.ranks)]


async def write_journal(
    control: Control, keys: LineageKeys, pin_id: str, snapshot: Snapshot
) -> None:
    """Runtimes' clocks may differ: journals are as old as the server's clock says."""
    await control.run("journal", [keys.journals], pin_id, msgpack.packb(snapshot.pack()))


def read_journal(record: bytes) -> tuple[float, Snapshot]:
    """When a commit began, unix time, and what it names. Raises CorruptObject."""
    try:
        journal = msgpack.unpackb(record)
        return float(journal["at"]), Snapshot.unpack(journal["snapshot"])
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise CorruptObject(f"a journal cannot be read: {error!r}") from error


async def abort(
    control: Control,
    prefix: str,
    keys: LineageKeys,
    pin_id: str,
    snapshot: Snapshot | None = None,
) -> None:
    """Unpin what an unfinished commit pinned; afterwards it cannot finish.

    What a snapshot's record names as its pin stays: a commit that failed may have been made, or
    begun to be, all the same.

    snapshot: what the commit names, from the commit itself: it may have gone on pinning after
              `recover` had already abandoned it and removed the journal
    """
    async with control.guard() as client:
        record = await client.hget(keys.journals, pin_id)
        if record is None:
            record = await client.hget(keys.aborted, pin_id)
    if record is not None:
        snapshot = read_journal(record)[1]
    if snapshot is None:
        return
    abandoned = await control.run(
        "abandon",
        [keys.journals, keys.aborted, keys.snapshot(snapshot.id), keys.refs, keys.dead],
        pin_id,
        snapshot.id,
    )
    if not abandoned:
        return
    await unpin(control, prefix, snapshot, pin_id)  # a retry needs it again: no shredding
    async with control.guard() as client:
        await client.hdel(keys.aborted, pin_id)


async def unfinished(control: Control, prefix: str, lineages: Sequence[str]) -> list[str]:
    """The lineages that `recover` may find something to do in, in few round trips."""
    found: list[str] = []
    for start in range(0, len(lineages), _BATCH):
        batch = lineages[start : start + _BATCH]
        commands: list[Command] = []
        for lineage in batch:
            keys = LineageKeys(prefix, lineage)
            commands.append(("EXISTS", keys.journals, keys.aborted, keys.dead))
            commands.append(("EXISTS", keys.sessions))
        replies = await control.exchange(commands)
        found += [
            lineage
            for lineage, begun, lives in zip(batch, replies[::2], replies[1::2], strict=True)
            if begun or not lives
        ]
    return found


async def recover(control: Control, prefix: str, lineage: str, *, older_than: float) -> int:
    """Abort commits begun more than `older_than` s ago and unwind the dead; objects let go."""
    keys = LineageKeys(prefix, lineage)
    now, found, aborted = await control.run("journals", [keys.journals, keys.aborted])
    # A hash is a map already in RESP3.
    journals = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
    stale = [
        pin_id
        for pin_id, record in journals.items()
        if (at := _begun(record)) is not None and at < float(now) - older_than
    ]
    for pin_id in {*stale, *aborted}:
        try:
            await abort(control, prefix, keys, pin_id.decode())
        except CorruptObject as error:
            logger.error("commit %s of %s cannot be undone: %s; %s", pin_id, lineage, error, REPAIR)
    return await unwind(control, prefix, lineage)


def _begun(record: bytes) -> float | None:
    try:
        return read_journal(record)[0]
    except CorruptObject as error:
        logger.error("the journal of a commit is left alone: %s; %s", error, REPAIR)
        return None


async def unwind(control: Control, prefix: str, lineage: str) -> int:
    """Bury dead snapshots, each with what only it held, until none is left; how many."""
    keys = LineageKeys(prefix, lineage)
    buried = 0
    while True:
        async with control.guard() as client:
            raw = await client.srandmember(keys.dead)
        if raw is None:
            await _forget_if_empty(control, keys, prefix, lineage)
            return buried
        snapshot_id = raw.decode()
        found = [keys.dead, keys.snapshot(snapshot_id), keys.refs]
        doomed = await control.run("doomed", found, snapshot_id)
        if not doomed:
            continue
        stored, pin_id, files = doomed
        shred, tenant = False, None
        try:
            snapshot = Snapshot.unpack(stored)
            shred, tenant = snapshot.encrypted, snapshot.tenant
            await unpin(control, prefix, snapshot, pin_id.decode(), shred=shred)
        except CorruptObject as error:
            logger.error("%s is let go, and its objects stay pinned: %s; %s", raw, error, REPAIR)
        outcome, *labels = await control.run(
            "bury",
            [
                keys.snapshot(snapshot_id),
                keys.tokens(snapshot_id),
                keys.refs,
                keys.dead,
                keys.usage,
                keys.held_files,
                keys.tree,
                *await _files(control, keys, files.decode()),
            ],
            snapshot_id,
            pin_id,
            0 if shred else TTL,
        )
        if outcome != b"ok":  # a commit has just revived it
            continue
        buried += 1
        if tenant is not None and labels[0]:
            with contextlib.suppress(CorruptObject):
                await forget_labels(control, prefix, tenant, snapshot_id, labels_of(labels[0]))


async def _files(control: Control, keys: LineageKeys, name: str) -> list[str]:
    """What `lua/bury.lua` takes of a snapshot's files, nothing for one without."""
    if not name:
        return []
    async with control.guard() as client:
        blobs: bytes | None = await client.hget(keys.files(name), "blobs")
    beside = [keys.wanted_files, keys.sessions, keys.cold_files, keys.condemned_files]
    return [*beside, keys.files(name), *map(keys.blob, (blobs or b"").decode().split())]


async def unpin(
    control: Control,
    prefix: str,
    snapshot: Snapshot,
    pin_id: str,
    objects: Sequence[ObjectRef] | None = None,
    *,
    shred: bool = False,
) -> None:
    """Let go of objects of a snapshot, of all of them if None.

    shred: encrypted objects that nothing else holds go at once, and their seeds with them
    """
    objects = snapshot.objects if objects is None else objects
    for start in range(0, len(objects), _BATCH):
        calls = [
            (_keys_to_unpin(prefix, snapshot, ref), [pin_id, GRACE, int(shred)])
            for ref in objects[start : start + _BATCH]
        ]
        await control.run_many("unpin", calls)


async def _forget_if_empty(control: Control, keys: LineageKeys, prefix: str, lineage: str) -> None:
    holding = [keys.sessions, keys.refs, keys.journals, keys.aborted]
    beside = [keys.fence, keys.seed, keys.usage, keys.effects, keys.held_files]
    beside += [keys.wanted_files, keys.loose_files, keys.cold_files, keys.condemned_files]
    beside += [keys.tree]
    if not await control.run("forget_lineage", [*holding, *beside]):
        return
    async with control.guard() as client:
        await client.srem(f"{prefix}:lineages", lineage)
        if await client.exists(keys.sessions):  # made between the look and the removal
            await client.sadd(f"{prefix}:lineages", lineage)
