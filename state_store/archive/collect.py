"""What the archive holds that nothing in Redis names any more, and the proof of the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from redis.exceptions import ResponseError

from state_store.archive.base import Archive, StoredFile
from state_store.archive.clock import MOVE_LIMIT, ORPHAN_AGE, read_clock
from state_store.archive.names import (
    Generation,
    StoredFileName,
    StoredName,
    all_ranks,
    object_name,
    parse_file_name,
    parse_name,
)
from state_store.archive.targets import target_beside
from state_store.codec import HEADER_BYTES, check_value
from state_store.connection import Control
from state_store.errors import CorruptObject
from state_store.layout import PART_BYTES, LineageKeys

_BATCH = 256
_READERS = 4

logger = logging.getLogger(__name__)


@dataclass
class ArchiveReport:
    """What a walk over the archived objects found. `problems` is empty if all is well.

    objects, bytes: archived and whole, all ranks
    damaged: (cold key, what is wrong) of those whose bytes are not there or not whole
    """

    objects: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Condemned:
    """collected: generations that were deleted
    damaged:   keys, and names in them, that cannot be read and were left alone
    """

    collected: int
    damaged: int


async def collect_condemned(
    control: Control, prefix: str, archive: Archive, *, older_than: float = MOVE_LIMIT
) -> Condemned:
    """Delete the generations that were condemned over `older_than` s ago.

    The wait has two reasons. A server that comes back from a crash without its last writes may
    name again what was condemned in them: until then the bytes are there. And a script that was
    to make a generation cold may still be on its way; it is refused as long as that is condemned,
    and by its age afterwards. So a shorter wait is safe only while nobody moves anything.

    What cannot be read is logged and counted, and left for `store check`.
    """
    collected, damaged = 0, 0
    async for keys in control.scan(f"{prefix}:condemned:*"):
        now = (await read_clock(control, prefix)).now
        async with control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.smembers(key)
            due, names = [], []
            for key, members in zip(keys, await replies_of(pipeline), strict=True):
                if isinstance(members, ResponseError):
                    logger.error("%r is left alone: %s", key, members)
                    damaged += 1
                    continue
                for member in members:
                    try:
                        target = target_beside(prefix, key, ranks=1)
                        generation, _ = _condemned(member)
                        since = _condemned_at(member)
                    except CorruptObject as error:
                        logger.error("a condemned generation is left alone: %s", error)
                        damaged += 1
                        continue
                    if now - since >= older_than:
                        due.append((key, member))
                        names += all_ranks(target.names[0], target.ref, generation)
            await asyncio.to_thread(archive.delete, names)
            pipeline = client.pipeline(transaction=False)
            for key, member in due:
                pipeline.srem(key, member)
            if due:
                await pipeline.execute()
            collected += len(due)
    return Condemned(collected, damaged)


async def count_condemned(control: Control, prefix: str) -> int:
    """Generations that wait to be deleted; a key that cannot be read counts as one."""
    counts: dict[bytes, int] = {}
    async for keys in control.scan(f"{prefix}:condemned:*"):
        async with control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.scard(key)
            for key, count in zip(keys, await replies_of(pipeline), strict=True):
                counts[key] = 1 if isinstance(count, ResponseError) else count
    return sum(counts.values())


async def collect_orphans(
    control: Control, prefix: str, archive: Archive, *, older_than: float = ORPHAN_AGE
) -> int:
    """Delete what moves that began over `older_than` s ago and never ended left behind; files.

    Never anything that a cold key names, nor another store's, nor what has a name that this
    package does not give. `older_than` below MOVE_LIMIT is safe only while nobody moves anything.
    """
    clock = await read_clock(control, prefix)
    files = archive.list(clock.store)
    removed = 0
    while batch := await asyncio.to_thread(_take, files, _BATCH):
        old = [
            (file.name, stored)
            for file in batch
            if (stored := parse_name(prefix, file.name) or parse_file_name(file.name)) is not None
            and clock.now - stored.generation.started >= older_than
        ]
        if not old:
            continue
        async with control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for _, stored in old:
                if isinstance(stored, StoredName):
                    pipeline.get(stored.names.cold_key(stored.ref))
                else:
                    pipeline.hget(LineageKeys(prefix, stored.lineage).cold_files, stored.blob)
            colds = await replies_of(pipeline)
        orphans = [
            name
            for (name, stored), cold in zip(old, colds, strict=True)
            if _is_orphan(stored, cold)
        ]
        await asyncio.to_thread(archive.delete, orphans)
        removed += len(orphans)
    return removed


async def check_archive(control: Control, prefix: str, archive: Archive) -> ArchiveReport:
    """Read every archived object and prove that its cold key tells the truth.

    Moves in progress meanwhile can show up as problems.
    """
    report = ArchiveReport()
    frames: asyncio.Queue[memoryview] = asyncio.Queue()
    for _ in range(_READERS):
        frames.put_nowait(memoryview(bytearray(HEADER_BYTES + PART_BYTES)))

    async def read(key: bytes, cold: bytes) -> None:
        frame = await frames.get()
        try:
            size = await asyncio.to_thread(_check_cold, prefix, archive, key, cold, frame)
            report.objects += 1
            report.bytes += size
        except CorruptObject as error:
            report.problems.append(f"{key.decode()}: {error}")
            report.damaged.append((key.decode(), str(error)))
        finally:
            frames.put_nowait(frame)

    seen: set[bytes] = set()
    async for batch in control.scan(f"{prefix}:cold:*"):
        keys = [key for key in dict.fromkeys(batch) if key not in seen]
        seen.update(keys)
        async with control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.get(key)
                pipeline.exists(target_beside(prefix, key, ranks=1).pins)
            replies = await pipeline.execute()
        cold_ones = []
        for key, cold, pinned in zip(keys, replies[::2], replies[1::2], strict=True):
            if cold is None:  # moved back meanwhile
                continue
            if not pinned:
                report.problems.append(f"{key.decode()}: archived, but held by nobody")
            cold_ones.append((key, cold))
        await asyncio.gather(*(read(key, cold) for key, cold in cold_ones))
    return report


def _check_cold(prefix: str, archive: Archive, key: bytes, cold: bytes, frame: memoryview) -> int:
    """Bytes on all ranks. Raises CorruptObject."""
    generation = Generation.parse(cold)
    target = target_beside(prefix, key, ranks=generation.ranks)
    total = 0
    for names in target.names:
        size = archive.get_into(object_name(names, target.ref, generation), frame)
        if size is None:
            raise CorruptObject(f"the archive has lost it (rank {names.rank}).")
        if not HEADER_BYTES <= size <= len(frame):
            raise CorruptObject(f"it has {size} bytes (rank {names.rank}).")
        header, payload = frame[:HEADER_BYTES], frame[HEADER_BYTES:size]
        check_value(header, payload, names=names, ref=target.ref, decoded_bytes=None)
        total += size
    return total


async def replies_of(pipeline: Any) -> list[Any]:
    """With a ResponseError in the place of each reply of a key that is not of its type."""
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    for reply in replies:
        wrong_type = isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")
        if isinstance(reply, Exception) and not wrong_type:
            raise reply
    return replies


def _is_orphan(stored: StoredName | StoredFileName, cold: bytes | ResponseError | None) -> bool:
    if isinstance(cold, ResponseError):
        logger.error("%s stays in the archive, its cold key cannot be read: %s", stored, cold)
        return False
    return stored.partial or not cold or cold.split()[0] != str(stored.generation).encode()


def _condemned(member: bytes) -> tuple[Generation, int]:
    """A generation and when it was condemned (0: by letting go of what nobody held)."""
    text, _, at = member.partition(b"@")
    if at and not at.isdigit():
        raise CorruptObject(f"{member!r} is no generation that was condemned.")
    return Generation.parse(text), int(at or 0)


def _condemned_at(member: bytes) -> int:
    generation, at = _condemned(member)
    return max(generation.started, at)


def _take(files: Iterator[StoredFile], count: int) -> list[StoredFile]:
    return list(islice(files, count))


__all__: Sequence[str] = (
    "ArchiveReport", "Condemned", "check_archive", "collect_condemned", "collect_orphans",
    "count_condemned", "replies_of",
)  # fmt: skip
