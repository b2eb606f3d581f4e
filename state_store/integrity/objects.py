"""Objects: what live snapshots name, and whatever else lies in Redis and the archive."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, cast

import xxhash
from redis.exceptions import ResponseError

from state_store.archive.base import Archive
from state_store.archive.collect import check_archive, replies_of
from state_store.codec import HEADER_BYTES, check_value
from state_store.connection import Call
from state_store.errors import CorruptObject, UnknownFingerprint
from state_store.fingerprints import Fingerprints
from state_store.integrity.lineages import discover, gather_pins, still_alive
from state_store.integrity.walk import Walk, batches, is_generation
from state_store.layout import KINDS, PART_BYTES, Kind, LineageKeys, ObjectNames, ObjectRef
from state_store.records import Snapshot

_READ_BYTES = 16 << 20  # of stored values read in one round trip
_TAG = r"\{([0-9a-f]{64})(?:\.(\d+))?\}"
_OBJECT = re.compile(r"(kv|state):([0-9a-f]{32}):(\d+):" + _TAG)
_BESIDE = re.compile(r"(?:pins|cold|condemned|seed):(kv|state):([0-9a-f]{32}):" + _TAG)


class _Held(NamedTuple):
    """One object of one snapshot."""

    snapshot: Snapshot
    ref: ObjectRef
    names: list[ObjectNames]


class _Seed(NamedTuple):
    """Of one encrypted object; see `lua/audit_seed.lua`. One in the clear counts as right."""

    left: int
    fits: list[int]

    @property
    def is_right(self) -> bool:
        return self.left == -1 and all(self.fits)


_NO_SEED = _Seed(-1, [])


async def check_held(walk: Walk, keys: LineageKeys, snapshots: Sequence[Snapshot]) -> None:
    """That live snapshots hold all that they name, and that it is there on all ranks."""
    walk.named.update(snapshot.fingerprint_id for snapshot in snapshots)
    for snapshot in snapshots:
        names = [
            ObjectNames(walk.prefix, snapshot.fingerprint_id, rank)
            for rank in range(snapshot.ranks)
        ]
        held = [_Held(snapshot, ref, names) for ref in snapshot.objects]
        for batch in batches(held):
            await _check_batch(walk, keys, snapshot, batch)


async def _check_batch(
    walk: Walk, keys: LineageKeys, snapshot: Snapshot, batch: Sequence[_Held]
) -> None:
    async with walk.control.guard() as client:
        pin = await client.hget(keys.snapshot(snapshot.id), "pin") or b""
    calls = [
        ([n[0].pins_key(ref), n[0].cold_key(ref), *(names.key(ref) for names in n)], [pin])
        for _, ref, n in batch
    ]
    replies = await walk.control.run_many("audit", calls)
    seeds: list[_Seed] = [_NO_SEED] * len(batch)
    if snapshot.encrypted:
        seeded: list[Call] = [
            ([n[0].seed_key(ref), *(names.key(ref) for names in n)], []) for _, ref, n in batch
        ]
        seeds = [_Seed(*reply) for reply in await walk.control.run_many("audit_seed", seeded)]
    wrong = [
        (held, reply, seed)
        for held, reply, seed in zip(batch, replies, seeds, strict=True)
        if not reply[0] or any(left != -1 for left in reply[2]) or not seed.is_right
    ]
    # What is wrong may be that it was let go of between the two looks.
    if wrong and await still_alive(walk, keys, [snapshot]):
        for held, (pinned, cold, left), seed in wrong:
            _judge(walk, keys, held, bool(pinned), cold, left, seed)
            _judge_seed(walk, held, seed)


def _judge(
    walk: Walk,
    keys: LineageKeys,
    held: _Held,
    pinned: bool,
    cold: bytes,
    left: list[int],
    seed: _Seed,
) -> None:
    snapshot, ref, names = held
    whole = all(seconds != -2 for seconds in left) and all(seed.fits)
    archived = bool(cold) and is_generation(cold)
    if not pinned:
        walk.unpinned.add(names[0].pins_key(ref))
        walk.found(
            "unpinned",
            snapshot.id,
            f"does not pin {ref.kind} {ref.tag}",
            repairable=(whole or archived) and seed.left != -2,
            lineage=keys.lineage,
            ref=ref,
        )
    for one, seconds in zip(names, left, strict=True):
        if seconds == -2 and not archived:
            walk.found("object-missing", one.key(ref), "missing", repairable=False)
        elif seconds >= 0 and not archived:
            walk.found(
                "object-expires",
                one.key(ref),
                "held, yet it expires",
                repairable=True,
                keys=[one.pins_key(ref), one.key(ref)],
            )


def _judge_seed(walk: Walk, held: _Held, seed: _Seed) -> None:
    _, ref, names = held
    key = names[0].seed_key(ref)
    if seed.left == -2:
        message = "missing: nobody can read the object"
        walk.found("seed-missing", key, message, repairable=False)
        return
    if seed.left >= 0:
        walk.found(
            "seed-expires",
            key,
            "of an object that is held, yet it expires",
            repairable=True,
            keys=[names[0].pins_key(ref), key],
        )
    for one, fits in zip(names, seed.fits, strict=False):
        if not fits:
            message = "encrypted under another seed than is there: nobody can read it"
            walk.found("seed-differs", one.key(ref), message, repairable=False)


async def check_stored(walk: Walk) -> None:
    """Every object in Redis: whole if a live snapshot holds it, else on its way out."""
    sizes = Sizes(walk)
    seen: set[int] = set()
    for kind in KINDS:
        async for keys in walk.control.scan(f"{walk.prefix}:{kind}:*"):
            objects = [one for key in keys if (one := _parsed(walk.prefix, key)) is not None]
            new = []
            for one in objects:
                digest = xxhash.xxh3_64_intdigest(one[0].key(one[1]))
                if digest not in seen:  # a scan may bring a key twice
                    seen.add(digest)
                    new.append(one)
            for batch in batches(new):
                await _check_stored_batch(walk, sizes, batch)


async def _check_stored_batch(
    walk: Walk, sizes: Sizes, batch: Sequence[tuple[ObjectNames, ObjectRef]]
) -> None:
    calls: list[Call] = [([n.pins_key(r), n.cold_key(r), n.key(r)], []) for n, r in batch]
    held = []
    for (names, ref), (pins, _, (left,)) in zip(
        batch, await walk.control.run_many("audit", calls), strict=True
    ):
        named = names.pins_key(ref) in walk.unpinned
        if left == -2:
            continue
        if named or not walk.live.isdisjoint(pins):
            held.append((names, ref))
            continue
        walk.report.unheld += 1
        if left == -1 and not pins:
            walk.found(
                "object-leaks",
                names.key(ref),
                "held by nobody, never expires",
                repairable=True,
                keys=[names.pins_key(ref), names.key(ref)],
            )
    async with walk.control.guard() as client:
        pipeline = client.pipeline(transaction=False)
        for names, ref in held:
            pipeline.strlen(names.key(ref))
        stored = await pipeline.execute() if held else []
    group: list[tuple[ObjectNames, ObjectRef]] = []
    size = 0
    for one, one_size in zip(held, stored, strict=True):
        if group and size + one_size > _READ_BYTES:
            await _check_values(walk, sizes, group)
            group, size = [], 0
        group.append(one)
        size += one_size
    if group:
        await _check_values(walk, sizes, group)


async def _check_values(
    walk: Walk, sizes: Sizes, group: Sequence[tuple[ObjectNames, ObjectRef]]
) -> None:
    async with walk.control.guard() as client:
        pipeline = client.pipeline(transaction=False)
        for names, ref in group:
            pipeline.get(names.key(ref))
        values = await pipeline.execute()
    for (names, ref), value in zip(group, values, strict=True):
        if value is None:
            continue  # deleted, or archived, since it was seen
        walk.report.objects += 1
        walk.report.object_bytes += len(value)
        whole = memoryview(value)
        try:
            check_value(
                whole[:HEADER_BYTES],
                whole[HEADER_BYTES:],
                names=names,
                ref=ref,
                decoded_bytes=await sizes.decoded(names, ref),
            )
        except CorruptObject as error:
            walk.found("object-damaged", names.key(ref), str(error), repairable=False)


class Sizes:
    """What objects have on the device, by the state format that they are stored under."""

    def __init__(self, walk: Walk) -> None:
        self._fingerprints = Fingerprints(walk.control, walk.prefix)
        self._payloads: dict[tuple[str, Kind], int | None] = {}

    async def decoded(self, names: ObjectNames, ref: ObjectRef) -> int | None:
        """None if the state format is not known."""
        known = (names.fingerprint_id, ref.kind)
        if known not in self._payloads:
            try:
                fingerprint = await self._fingerprints.get(names.fingerprint_id)
                self._payloads[known] = fingerprint.layout(ref.kind).payload_bytes
            except (UnknownFingerprint, ValueError):
                self._payloads[known] = None
        payload = self._payloads[known]
        return None if payload is None else min(PART_BYTES, payload - ref.part * PART_BYTES)


async def check_fingerprints(walk: Walk) -> None:
    """That every state format which live snapshots or sessions name is known."""
    named = walk.named | {body.fingerprint_id for body in walk.bodies.values()}
    fingerprints = Fingerprints(walk.control, walk.prefix)
    for one in sorted(named):
        try:
            found = await fingerprints.get(one)
            message = None if found.id == one else f"its record is that of {found.id}"
        except UnknownFingerprint:
            message = "no record of this state format; creating a session with it makes one"
        except ValueError as error:
            message = f"its record cannot be read: {error}"
        if message is not None:
            walk.found("fingerprint-record", one, message, repairable=False)


async def check_pins(walk: Walk) -> None:
    """That whoever holds an object is a commit that lives, or that recovery knows of."""
    suspects: list[tuple[bytes, bytes]] = []
    async for keys in walk.control.scan(f"{walk.prefix}:pins:*"):
        for batch in batches(keys):
            async with walk.control.guard() as client:
                pipeline = client.pipeline(transaction=False)
                for key in batch:
                    pipeline.smembers(key)
                replies = await pipeline.execute()
            for key, pins in zip(batch, replies, strict=True):
                suspects += [(key, pin) for pin in pins if pin not in walk.pins]
    if not suspects:
        return
    # A commit that began after its lineage was looked at is in its journal by now.
    for lineage, found in (await discover(walk)).items():
        await gather_pins(walk, lineage, found)
    suspects = [(key, pin) for key, pin in suspects if pin not in walk.pins]
    for part in batches(suspects):
        async with walk.control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for key, pin in part:
                pipeline.sismember(key, pin)
            still = await pipeline.execute()
        for (key, pin), there in zip(part, still, strict=True):
            if there:
                walk.found(
                    "stray-pin",
                    key,
                    f"pinned by {pin.decode(errors='replace')}, no live commit",
                    repairable=walk.gaps == 0,
                    key=key,
                    pin=pin,
                )


async def check_cold(walk: Walk) -> None:
    """That what is archived is held, and that what is condemned is not needed."""
    async for names, ref in _beside(walk, "cold"):
        key = names.cold_key(ref)
        pins, cold, _ = await walk.control.run("audit", [names.pins_key(ref), key])
        if not cold:
            continue  # moved back meanwhile
        if not is_generation(cold):
            walk.found(
                "cold-key",
                key,
                f"{cold[:80]!r} is not a generation of the archive",
                repairable=True,
                keys=[names.pins_key(ref), key, names.condemned_key(ref)],
                value=cold,
            )
        elif not pins and names.pins_key(ref) not in walk.unpinned:
            walk.found(
                "cold-unheld",
                key,
                "archived, but held by nobody",
                repairable=True,
                keys=[names.pins_key(ref), key, names.condemned_key(ref)],
                value=cold,
            )
        else:
            walk.report.archived += int(cold.split(b"-")[1])
    async for names, ref in _beside(walk, "condemned"):
        key = names.condemned_key(ref)
        async with walk.control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.get(names.cold_key(ref))
            pipeline.smembers(key)
            cold, members = await replies_of(pipeline)
        if isinstance(members, ResponseError):
            members = ()
            walk.found(
                "condemned",
                key,
                "is no set of generations of the archive",
                repairable=True,
                keys=[names.cold_key(ref), key],
                member=b"",
            )
        for member in sorted(members):
            generation, _, at = member.partition(b"@")
            if not is_generation(generation) or not (at or b"0").isdigit():
                message = "is not a generation of the archive"
            elif cold == generation:
                message = "is to be deleted from the archive, yet it is needed"
            else:
                continue
            walk.found(
                "condemned",
                key,
                f"{member[:80].decode(errors='replace')} {message}",
                repairable=True,
                keys=[names.cold_key(ref), key],
                member=member,
            )


async def check_archived(walk: Walk, archive: Archive) -> None:
    """That the archive has, whole, what cold keys name."""
    report = await check_archive(walk.control, walk.prefix, archive)
    walk.report.archived_bytes = report.bytes
    for key, message in report.damaged:
        async with walk.control.guard() as client:
            cold = await client.get(key)
        if cold is not None and is_generation(cold):  # else it moved back, or is told of already
            walk.found("archive", key, message, repairable=False)


async def _beside(walk: Walk, what: str) -> AsyncIterator[tuple[ObjectNames, ObjectRef]]:
    seen: set[tuple[str, ObjectRef]] = set()
    async for keys in walk.control.scan(f"{walk.prefix}:{what}:*"):
        for key in keys:
            match = _BESIDE.fullmatch(key.decode(errors="replace").removeprefix(f"{walk.prefix}:"))
            if match is None:
                continue
            kind, fingerprint_id, page_hash, part = match.groups()
            ref = ObjectRef(cast(Kind, kind), page_hash, int(part or 0))
            if (fingerprint_id, ref) not in seen:
                seen.add((fingerprint_id, ref))
                yield ObjectNames(walk.prefix, fingerprint_id, 0), ref


def _parsed(prefix: str, key: bytes) -> tuple[ObjectNames, ObjectRef] | None:
    """None for a key that this package does not give."""
    match = _OBJECT.fullmatch(key.decode(errors="replace").removeprefix(f"{prefix}:"))
    if match is None:
        return None
    kind, fingerprint_id, rank, page_hash, part = match.groups()
    ref = ObjectRef(cast(Kind, kind), page_hash, int(part or 0))
    return ObjectNames(prefix, fingerprint_id, int(rank)), ref


__all__: Sequence[str] = (
    "check_archived", "check_cold", "check_fingerprints", "check_held", "check_pins",
    "check_stored",
)  # fmt: skip
