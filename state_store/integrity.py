"""The proof that a store is consistent: every reference counted, every object present and whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from state_store.codec import HEADER_BYTES, check_value
from state_store.connection import Control
from state_store.errors import CorruptObject
from state_store.garbage import keys_to_pin
from state_store.layout import KINDS, LineageKeys, ObjectNames, ObjectRef
from state_store.records import Snapshot


@dataclass
class Report:
    """What a walk over the store found. `problems` is empty for a store that is in order.

    objects, object_bytes: what live snapshots hold, each object counted once
    unheld:                objects nobody holds; they expire by themselves
    """

    sessions: int = 0
    snapshots: int = 0
    objects: int = 0
    object_bytes: int = 0
    unheld: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class _Walk:
    """What the lineages name: every other key of these kinds is a leak."""

    objects: set[bytes] = field(default_factory=set)
    records: set[bytes] = field(default_factory=set)
    pins: set[bytes] = field(default_factory=set)


async def check_integrity(control: Control, prefix: str) -> Report:
    """Read the whole store. Commits in progress meanwhile can show up as problems."""
    report = Report()
    walk = _Walk()
    async with control.guard() as client:
        lineages = await client.smembers(f"{prefix}:lineages")
        for lineage in sorted(raw.decode() for raw in lineages):
            await _check_lineage(client, prefix, lineage, report, walk)
        for kind in KINDS:
            async for key in client.scan_iter(f"{prefix}:{kind}:*", count=1000):
                if key not in walk.objects:
                    report.unheld += 1
                    if await client.ttl(key) < 0:
                        report.problems.append(f"{key.decode()}: held by nobody, never expires")
        async for key in client.scan_iter(f"{prefix}:pins:*", count=1000):
            for pin in await client.smembers(key) - walk.pins:
                report.problems.append(f"{key.decode()}: pinned by {pin.decode()}, no live commit")
        for name in ("session", "snapshot", "tokens"):
            async for key in client.scan_iter(f"{prefix}:{{*}}:{name}:*", count=1000):
                if key not in walk.records:
                    report.problems.append(f"{key.decode()}: reached by nobody")
    return report


async def _check_lineage(
    client: Any, prefix: str, lineage: str, report: Report, walk: _Walk
) -> None:
    keys = LineageKeys(prefix, lineage)
    walk.pins.update(await client.hkeys(keys.journals), await client.hkeys(keys.aborted))
    expected: Counter[str] = Counter()
    for raw in await client.smembers(keys.sessions):
        head = await client.hget(keys.session(raw.decode()), "head")
        if head is None:
            report.problems.append(f"{raw.decode()}: session record missing")
            continue
        report.sessions += 1
        walk.records.add(keys.session(raw.decode()).encode())
        if head:
            expected[head.decode()] += 1
    dead = {raw.decode() for raw in await client.smembers(keys.dead)}
    walked: set[str] = set()
    waiting = [*expected, *dead]
    while waiting:
        snapshot_id = waiting.pop()
        if snapshot_id in walked:
            continue
        walked.add(snapshot_id)
        stored, pin = await client.hmget(keys.snapshot(snapshot_id), "body", "pin")
        if stored is None:
            report.problems.append(f"{snapshot_id}: referenced but missing")
            continue
        snapshot = Snapshot.unpack(stored)
        report.snapshots += 1
        walk.records.add(keys.snapshot(snapshot_id).encode())
        walk.records.add(keys.tokens(snapshot_id).encode())
        walk.pins.add(pin)
        await _check_tokens(client, keys, snapshot, report)
        if snapshot.parent is not None:
            expected[snapshot.parent] += 1
            waiting.append(snapshot.parent)
        if snapshot_id not in dead:
            await _check_objects(client, prefix, snapshot, pin.decode(), report, walk.objects)
    counted = {raw.decode(): int(count) for raw, count in (await client.hgetall(keys.refs)).items()}
    for snapshot_id in sorted({*counted, *expected}):
        have, want = counted.get(snapshot_id, 0), expected[snapshot_id]
        if have != want:
            report.problems.append(f"{snapshot_id}: counts {have} references, has {want}")


async def _check_tokens(client: Any, keys: LineageKeys, snapshot: Snapshot, report: Report) -> None:
    size = await client.strlen(keys.tokens(snapshot.id))
    before = 0
    if snapshot.parent is not None:
        parent = await client.hget(keys.snapshot(snapshot.parent), "body")
        before = 0 if parent is None else Snapshot.unpack(parent).total_tokens
    if size != 4 * (snapshot.total_tokens - before):
        report.problems.append(f"{snapshot.id}: token log has {size} bytes")


async def _check_objects(
    client: Any, prefix: str, snapshot: Snapshot, pin: str, report: Report, held: set[bytes]
) -> None:
    for ref in snapshot.objects:
        pins_key, *_ = keys_to_pin(prefix, snapshot, ref)
        if not await client.sismember(pins_key.decode(), pin):
            report.problems.append(f"{snapshot.id}: does not pin {ref.kind} {ref.tag}")
        for rank in range(snapshot.ranks):
            names = ObjectNames(prefix, snapshot.fingerprint_id, rank)
            if (key := names.key(ref)) not in held:
                held.add(key)
                await _check_object(client, names, ref, snapshot.part_bytes(ref), report)


async def _check_object(
    client: Any, names: ObjectNames, ref: ObjectRef, decoded_bytes: int, report: Report
) -> None:
    key = names.key(ref)
    frame = await client.get(key)
    if frame is None:
        report.problems.append(f"{key.decode()}: missing")
        return
    report.objects += 1
    report.object_bytes += len(frame)
    if await client.ttl(key) >= 0:
        report.problems.append(f"{key.decode()}: held, yet it expires")
    try:
        whole = memoryview(frame)
        check_value(
            whole[:HEADER_BYTES],
            whole[HEADER_BYTES:],
            names=names,
            ref=ref,
            decoded_bytes=decoded_bytes,
        )
    except CorruptObject as error:
        report.problems.append(f"{key.decode()}: {error}")
