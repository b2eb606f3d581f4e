"""Archived contents of files that nothing names any more, and the proof of the rest; the twin of
`collect.py`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence

from state_store.archive.base import Archive
from state_store.archive.clock import read_clock
from state_store.archive.cold_files import ColdFile
from state_store.archive.collect import Condemned
from state_store.archive.names import Generation, file_name
from state_store.connection import Control
from state_store.errors import CorruptObject, StoreRefused
from state_store.layout import LineageKeys

_BATCH = 256
_ARCHIVED = "co*-files"  # cold and condemned ones, in one look at all keys

logger = logging.getLogger(__name__)


async def collect_files(
    control: Control, prefix: str, archive: Archive, *, older_than: float
) -> Condemned:
    """Delete the contents that were condemned over `older_than` s ago, and have those condemned
    whose time is over. See `collect.collect_condemned`.

    What was condemned under no name is forgotten, and logged: what the archive has of it goes as an
    orphan.
    """
    collected, damaged = 0, 0
    async for keys in lineages_with(control, prefix, _ARCHIVED):
        try:
            places = [keys.held_files, keys.cold_files, keys.condemned_files]
            await control.run("outlived_files", places)
            collected += await _collect(control, prefix, keys, archive, older_than)
        except StoreRefused as error:
            _raise_unless_wrong_type(error)
            logger.error("archived files of lineage %s are left alone: %s", keys.lineage, error)
            damaged += 1
    return Condemned(collected, damaged)


async def count_condemned_files(control: Control, prefix: str) -> int:
    """Contents that wait to be deleted; those of a lineage that cannot be read count as one."""
    count = 0
    async for keys in lineages_with(control, prefix, "condemned-files"):
        try:
            async with control.guard() as client:
                count += len(await client.hkeys(keys.condemned_files))
        except StoreRefused as error:
            _raise_unless_wrong_type(error)
            count += 1
    return count


async def check_cold_files(
    control: Control, keys: LineageKeys, archive: Archive
) -> tuple[int, list[tuple[str, bytes, str]]]:
    """Read what the archive has of a lineage's files: bytes that are whole, and of each content
    that is not its name in the store, how it was known and what is wrong."""
    whole = 0
    damaged: list[tuple[str, bytes, str]] = []
    async with control.guard() as client:
        cold: dict[bytes, bytes] = await client.hgetall(keys.cold_files)
    for raw, value in cold.items():
        blob = raw.decode("ascii", "replace")
        try:
            whole += len(await ColdFile.parse(value).read(archive, keys.lineage, blob))
        except CorruptObject as error:
            async with control.guard() as client:
                now = await client.hget(keys.cold_files, blob)
            if now == value:  # else it was moved back or let go meanwhile
                damaged.append((blob, value, str(error)))
    return whole, damaged


async def lineages_with(control: Control, prefix: str, what: str) -> AsyncIterator[LineageKeys]:
    """Keys of those lineages that have a record of this name. Looks at every key of the store."""
    seen: set[str] = set()
    async for found in control.scan(f"{prefix}:{{*}}:{what}"):
        for key in found:
            lineage = key.decode("ascii", "replace").removeprefix(f"{prefix}:{{").partition("}")[0]
            if lineage not in seen:
                seen.add(lineage)
                yield LineageKeys(prefix, lineage)


async def _collect(
    control: Control, prefix: str, keys: LineageKeys, archive: Archive, older_than: float
) -> int:
    """Of one lineage; how many were deleted."""
    now = (await read_clock(control, prefix)).now
    async with control.guard() as client:
        condemned: dict[bytes, bytes] = await client.hgetall(keys.condemned_files)
    due: dict[bytes, str] = {}
    nameless: list[bytes] = []
    for field, at in condemned.items():
        try:
            blob, generation = field.decode("ascii", "replace").split(" ", 1)
            name = file_name(keys.lineage, blob, Generation.parse(generation))
            if now - int(at) >= older_than:
                due[field] = name
        except (ValueError, CorruptObject) as error:
            logger.error("a condemned content of files is forgotten: %s", error)
            nameless.append(field)
    for batch in (*_batches([*due]), *_batches(nameless)):
        await asyncio.to_thread(archive.delete, [due[field] for field in batch if field in due])
        async with control.guard() as client:
            await client.hdel(keys.condemned_files, *batch)
    return len(due)


def _batches(fields: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (fields[start : start + _BATCH] for start in range(0, len(fields), _BATCH))


def _raise_unless_wrong_type(error: StoreRefused) -> None:
    if "WRONGTYPE" not in str(error):
        raise error
