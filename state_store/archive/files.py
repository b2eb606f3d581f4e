"""Moving contents of files between Redis and the archive, as `archivist.py` moves objects:

    out:   copy ──> read back and check ──> chill_file (one script: noted as cold, memory freed)
    back:  read and check ──> warm_file (one script: in Redis again, generation condemned)

Sets stay in Redis, and so do contents of less than LEAST_BYTES. Of what the archive has, a hash of
the lineage says so (`lua/cold_files.lua`): it is there for whoever keeps, commits or reads files.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from state_store.archive.base import Archive
from state_store.archive.clock import MOVE_LIMIT, read_clock
from state_store.archive.cold_files import ColdFile
from state_store.archive.moved import Moved
from state_store.archive.names import Generation, file_name
from state_store.connection import Control
from state_store.errors import ArchiveRefused, ArchiveUnavailable, CorruptObject, StoreRefused
from state_store.layout import LineageKeys, lineage_of
from state_store.records import Snapshot

LEAST_BYTES = 1024  # below, what is noted of an archived one would take as much
_CHUNK = 64  # contents moved and then settled together; sets of files read together
_WORKERS = 4

_T = TypeVar("_T")
_R = TypeVar("_R")


class FileWhereabouts(NamedTuple):
    """held: a set of a snapshot needs it; cold: how the archive has it, or nothing; size: bytes in
    Redis, -1 if it is not there"""

    held: bool
    cold: bytes
    size: int


class FileArchivist:
    """Any number may work at the same time, on the same contents."""

    def __init__(self, control: Control, prefix: str, archive: Archive) -> None:
        self._control = control
        self._prefix = prefix
        self.archive = archive

    async def move_out(self, history: Iterable[Snapshot], *, but: Iterable[Snapshot] = ()) -> Moved:
        """Move what the files of the snapshots need to the archive, but for what those of others
        need. All are of one lineage. Raises as `Archivist.move_out`."""
        moved = Moved()
        spared = {blob async for _, blob in self._blobs(but)}
        async for keys, batch in self._batches(history, spared):
            found = await look_files(self._control, keys, batch)
            moved.already += sum(bool(one.cold) for one in found)
            moved.left += sum(not one.cold and one.size < 0 for one in found)
            wanted = [
                (blob, one.size)
                for blob, one in zip(batch, found, strict=True)
                if one.held and not one.cold and one.size >= LEAST_BYTES
            ]
            await self._move_out(keys, wanted, moved)
        return moved

    async def bring_back(self, history: Iterable[Snapshot]) -> Moved:
        """Move what the files of the snapshots need back to Redis.

        Raises StoreFull when there is no room: what is back is back, the rest can be read in the
        archive. What the archive has lost is in `problems`. Otherwise as `move_out`.
        """
        moved = Moved()
        async for keys, batch in self._batches(history, set()):
            found = await look_files(self._control, keys, batch)
            pairs = zip(batch, found, strict=True)
            cold = [(keys, blob, one.cold, moved) for blob, one in pairs if one.cold]
            await self._each(cold, lambda one: self._bring_back(*one))
        return moved

    async def resident_bytes(self, history: Iterable[Snapshot], seen: set[str]) -> int:
        """Of contents in Redis that the files of the snapshots need and that are not in `seen`,
        where they are added."""
        total = 0
        async for keys, batch in self._batches(history, seen):
            seen.update(batch)
            total += sum(max(one.size, 0) for one in await look_files(self._control, keys, batch))
        return total

    async def _move_out(
        self, keys: LineageKeys, wanted: Sequence[tuple[str, int]], moved: Moved
    ) -> None:
        if not wanted:
            return
        clock = await read_clock(self._control, self._prefix)
        started = [(blob, Generation.new(clock.store, 1, clock.now)) for blob, _ in wanted]
        try:
            copies = await self._each(started, lambda one: self._copy_out(keys, *one))
            await self._chill(keys, started, copies, moved)
        except (StoreRefused, ArchiveUnavailable, ArchiveRefused):
            await self._discard(keys, started)
            raise
        await self._discard(keys, started)

    async def _copy_out(
        self, keys: LineageKeys, blob: str, generation: Generation
    ) -> ColdFile | None:
        """None if it is gone."""
        async with self._control.guard() as client:
            value: bytes | None = await client.get(keys.blob(blob))
        if value is None:
            return None
        name = file_name(keys.lineage, blob, generation)
        await asyncio.to_thread(self.archive.put, name, memoryview(value))
        copy = ColdFile(generation, len(value), hashlib.sha256(value).hexdigest())
        try:
            await copy.read(self.archive, keys.lineage, blob)
        except CorruptObject as error:
            raise ArchiveUnavailable(
                f"what was written to {self.archive.url} does not read back; nothing was removed "
                "from Redis. Check the disk or bucket."
            ) from error
        return copy

    async def _chill(
        self,
        keys: LineageKeys,
        started: Sequence[tuple[str, Generation]],
        copies: Sequence[ColdFile | None],
        moved: Moved,
    ) -> None:
        calls, copied = [], []
        beside = [keys.held_files, keys.cold_files, keys.condemned_files]
        for (blob, generation), copy in zip(started, copies, strict=True):
            if copy is None:
                moved.left += 1
                continue
            told = [str(generation), generation.started, MOVE_LIMIT, copy.size, copy.digest]
            calls.append(([*beside, keys.blob(blob)], [blob, *told]))
            copied.append(copy)
        outcomes = await self._control.run_many("chill_file", calls)
        for copy, outcome in zip(copied, outcomes, strict=True):
            _count(moved, outcome, copy.size)

    async def _discard(self, keys: LineageKeys, started: Sequence[tuple[str, Generation]]) -> None:
        """Delete the copies that did not become cold; see `Archivist`."""
        beside = [keys.cold_files, keys.condemned_files]
        calls = [(beside, [blob, str(generation)]) for blob, generation in started]
        outcomes = await self._control.run_many("discard_file", calls)
        needless = [
            file_name(keys.lineage, *one)
            for one, needless in zip(started, outcomes, strict=True)
            if needless
        ]
        if needless:
            await asyncio.to_thread(self.archive.delete, needless)

    async def _bring_back(self, keys: LineageKeys, blob: str, value: bytes, moved: Moved) -> None:
        try:
            cold = ColdFile.parse(value)
            content = await cold.read(self.archive, keys.lineage, blob)
        except CorruptObject as error:
            (now,) = await look_files(self._control, keys, [blob])
            if now.cold == value:  # else somebody else has brought it back or let it go
                moved.problems.append(str(error))
            return
        outcome = await self._control.run(
            "warm_file",
            [keys.held_files, keys.cold_files, keys.condemned_files, keys.blob(blob)],
            *(blob, str(cold.generation), content),
        )
        _count(moved, outcome, cold.size)

    async def _batches(
        self, history: Iterable[Snapshot], but: set[str]
    ) -> AsyncIterator[tuple[LineageKeys, list[str]]]:
        batch: list[str] = []
        keys: LineageKeys | None = None
        async for keys, blob in self._blobs(history):
            if blob not in but:
                batch.append(blob)
            if len(batch) == _CHUNK:
                yield keys, batch
                batch = []
        if keys is not None and batch:
            yield keys, batch

    async def _blobs(self, history: Iterable[Snapshot]) -> AsyncIterator[tuple[LineageKeys, str]]:
        """What the files of the snapshots need, each once."""
        seen: set[str] = set()
        sets = {one.files: lineage_of(one.id) for one in history if one.files is not None}
        rest = iter(sets.items())
        while some := list(islice(rest, _CHUNK)):
            async with self._control.guard() as client:
                pipeline = client.pipeline(transaction=False)
                for name, lineage in some:
                    pipeline.hget(LineageKeys(self._prefix, lineage).files(name), "blobs")
                found: list[bytes | None] = await pipeline.execute()
            for (_, lineage), blobs in zip(some, found, strict=True):
                keys = LineageKeys(self._prefix, lineage)
                for blob in (blobs or b"").decode(errors="replace").split():
                    if blob not in seen:
                        seen.add(blob)
                        yield keys, blob

    @staticmethod
    async def _each(items: Sequence[_T], run: Callable[[_T], Awaitable[_R]]) -> list[_R]:
        """A few at a time. After an error no other is begun, for each may take as long as the
        archive is waited for; it is raised when those that were begun have ended."""
        places = asyncio.Semaphore(_WORKERS)
        errors: list[BaseException] = []

        async def one(item: _T) -> list[_R]:
            async with places:
                if errors:
                    return []
                try:
                    return [await run(item)]
                except BaseException as error:
                    errors.append(error)
                    raise

        done = await asyncio.gather(*map(one, items), return_exceptions=True)
        results: list[_R] = []
        for result in done:
            if isinstance(result, BaseException):
                raise result
            results += result
        return results


async def look_files(
    control: Control, keys: LineageKeys, blobs: Sequence[str]
) -> list[FileWhereabouts]:
    """Where contents are, by their names in the store, in one round trip."""
    beside = [keys.held_files, keys.cold_files]
    found = await control.run("look_files", [*beside, *map(keys.blob, blobs)], *blobs)
    return [FileWhereabouts(bool(held), cold, size) for held, cold, size in found]


def _count(moved: Moved, outcome: bytes, size: int) -> None:
    if outcome == b"ok":
        moved.objects += 1
        moved.bytes += size
    else:
        moved.left += 1
