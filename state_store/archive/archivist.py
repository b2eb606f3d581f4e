"""Moving objects between Redis and the archive. Every step may be repeated, and a crash between
any two of them loses nothing:

    out:   copy all ranks ──> read back and check ──> chill (one script: cold key, memory freed)
    back:  copy all ranks, with an expiry ──> warm (one script: kept, generation condemned)

Copies are moved in bounded memory: one buffer of a part's size for each of WORKERS threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from state_store.archive.base import Archive
from state_store.archive.clock import MOVE_LIMIT, read_clock
from state_store.archive.files import FileArchivist
from state_store.archive.moved import Moved
from state_store.archive.names import Generation, all_ranks, object_name
from state_store.archive.targets import Target, look, targets_of
from state_store.codec import HEADER_BYTES, check_value
from state_store.connection import Control
from state_store.errors import (
    ArchivedObjectsLost,
    ArchiveRefused,
    ArchiveUnavailable,
    CorruptObject,
    StoreFull,
    StoreRefused,
)
from state_store.layout import PART_BYTES, ObjectNames
from state_store.objects import ObjectClient
from state_store.records import Snapshot

WORKERS = 4
_CHUNK_OBJECTS, _CHUNK_BYTES = 64, 256 << 20  # moved and then settled together
_RETURN_TTL = 300  # seconds that bytes on their way back live unless they arrive
_ATTEMPTS = 3


@dataclass(frozen=True)
class _Copy:
    """One object copied on all ranks: the header of each rank's value, and their bytes."""

    headers: list[bytes]
    bytes: int


class Archivist:
    """Moves what histories hold. Any number may work at the same time, on the same objects.

    files: moves the contents of their files
    """

    def __init__(
        self, control: Control, prefix: str, client: ObjectClient, archive: Archive
    ) -> None:
        """client: give it WORKERS connections, for its copies to run in parallel."""
        self._control = control
        self._prefix = prefix
        self._client = client
        self.archive = archive
        self.files = FileArchivist(control, prefix, archive)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="torpor-archivist")
        self._local = threading.local()

    def close(self) -> None:
        """Ends the threads; the client and the archive are the caller's."""
        self._pool.shutdown()

    # ---- out ----------------------------------------------------------------

    async def move_out(self, history: Iterable[Snapshot], *, idle: float = 0.0) -> Moved:
        """Move everything that the snapshots hold to the archive.

        idle: seconds; an object that somebody has read within them stays. Under an LFU policy the
              server does not know, and only sessions' own idle times are left to go by.

        Raises ArchiveUnavailable, ArchiveRefused, StoreUnavailable and StoreRefused; then some
        objects are moved and all others as they were, and it may be repeated.
        """
        moved = Moved()
        for chunk in _chunks(targets_of(self._prefix, history)):
            await self._move_chunk_out(chunk, idle, moved)
        return moved

    async def _move_chunk_out(self, chunk: list[Target], idle: float, moved: Moved) -> None:
        clock = await read_clock(self._control, self._prefix)
        wanted: list[tuple[Target, Generation]] = []
        doubled: list[tuple[Target, Generation]] = []
        for target, found in zip(chunk, await look(self._control, chunk), strict=True):
            if found.cold is not None:
                if found.present:
                    doubled.append((target, found.cold))
                else:
                    moved.already += 1
            elif not found.pinned or found.present < len(target.names):
                moved.left += 1
            elif found.idle is not None and found.idle < idle:
                moved.busy += 1
            else:
                ranks = len(target.names)
                wanted.append((target, Generation.new(clock.store, ranks, clock.now)))
        try:
            copies = await self._each(self._copy_out, wanted, moved)
            await self._chill(wanted, copies, moved)
        except (StoreRefused, ArchiveUnavailable, ArchiveRefused):
            await self._discard(wanted)
            raise
        await self._discard(wanted)
        # Written again by an engine that found them nowhere, or left by a move back that ended
        # half way: they may go if the archive's copies are whole, else those are given up.
        archived = await self._each(self._verify, doubled, moved)
        await self._chill(doubled, archived, moved)
        damaged = [d for d, copy in zip(doubled, archived, strict=True) if copy is None]
        await self._bring_chunk_back(damaged, Moved(), [])

    async def _chill(
        self,
        wanted: Sequence[tuple[Target, Generation]],
        copies: Sequence[_Copy | None],
        moved: Moved,
    ) -> None:
        calls, copied = [], []
        for (target, generation), copy in zip(wanted, copies, strict=True):
            if copy is None:
                moved.left += 1
                continue
            keys = [target.pins, target.cold, target.condemned, *target.objects]
            calls.append((keys, [str(generation), generation.started, MOVE_LIMIT, *copy.headers]))
            copied.append(copy)
        for copy, outcome in zip(copied, await self._control.run_many("chill", calls), strict=True):
            if outcome == b"ok":
                moved.objects += 1
                moved.bytes += copy.bytes
            else:
                moved.left += 1

    async def _discard(self, wanted: Sequence[tuple[Target, Generation]]) -> None:
        """Delete the copies that no cold key names. They stay condemned for as long as a script
        that was sent before may still arrive; `collect_condemned` forgets them then."""
        calls = [([target.cold, target.condemned], [str(one)]) for target, one in wanted]
        outcomes = await self._control.run_many("discard", calls)
        needless = [
            name
            for (target, generation), needless in zip(wanted, outcomes, strict=True)
            if needless
            for name in all_ranks(target.names[0], target.ref, generation)
        ]
        if needless:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._pool, self.archive.delete, needless)

    def _copy_out(self, target: Target, generation: Generation) -> _Copy | None:
        """None if it is gone. Raises CorruptObject for what is not whole in Redis."""
        headers, total, frame = [], 0, self._frame()
        for names in target.names:
            size = self._client.get_into([(names.key(target.ref), frame)])[0]
            if size is None:
                return None
            header = _verified(frame, size, target, names)
            name = object_name(names, target.ref, generation)
            self.archive.put(name, frame[:size])
            frame[:HEADER_BYTES] = bytes(HEADER_BYTES)
            written = self.archive.get_into(name, frame)
            if written != size or _header(frame, size, target, names) != header:
                raise ArchiveUnavailable(
                    f"what was written to {self.archive.url} does not read back; nothing was "
                    "removed from Redis. Check the disk or bucket."
                )
            headers.append(header)
            total += size
        return _Copy(headers, total)

    # ---- back ---------------------------------------------------------------

    async def bring_back(self, history: Iterable[Snapshot]) -> Moved:
        """Move everything that the snapshots hold back into Redis; see `bring_back_targets`."""
        return await self.bring_back_targets(targets_of(self._prefix, history))

    async def bring_back_targets(self, targets: Iterable[Target]) -> Moved:
        """Move objects back into Redis.

        The archive's bytes are condemned, not kept as a second copy: an object is in one place,
        and what is stored is what is counted.

        Raises StoreFull when there is no room: what is back is back, the rest stays archived and
        readable there. Raises ArchivedObjectsLost when everything else is back. Otherwise as
        `move_out`.
        """
        moved = Moved()
        lost: list[Target] = []
        for chunk in _chunks(targets):
            found = await look(self._control, chunk)
            cold = [(t, w.cold) for t, w in zip(chunk, found, strict=True) if w.cold is not None]
            moved.already += sum(w.cold is None and w.present == len(t.names)
                                 for t, w in zip(chunk, found, strict=True))  # fmt: skip
            lost += [t for t, w in zip(chunk, found, strict=True)
                     if w.cold is None and w.present < len(t.names)]  # fmt: skip
            await self._bring_chunk_back(cold, moved, lost)
        if lost:
            raise ArchivedObjectsLost(
                f"{len(lost)} archived objects are gone or not whole (first: {lost[0].ref.kind} "
                f"{lost[0].ref.tag}); {moved.objects} others are back. What needs the lost ones "
                f"is computed again from its tokens. {' '.join(moved.problems[:3])}",
                [(*target.ref,) for target in lost],
            )
        return moved

    async def _bring_chunk_back(
        self, cold: Sequence[tuple[Target, Generation]], moved: Moved, lost: list[Target]
    ) -> None:
        waiting = list(cold)
        for _ in range(_ATTEMPTS):  # an engine may write one again between its copy and the script
            if not waiting:
                return
            copies = await self._each(self._copy_back, waiting, moved)
            lost += [t for (t, _), copy in zip(waiting, copies, strict=True) if copy is None]
            copied = [
                (*one, copy) for one, copy in zip(waiting, copies, strict=True) if copy is not None
            ]
            calls = [
                (
                    [target.pins, target.cold, target.condemned, *target.objects],
                    [str(generation), *copy.headers],
                )
                for target, generation, copy in copied
            ]
            outcomes = await self._control.run_many("warm", calls)
            waiting = []
            for (target, generation, copy), outcome in zip(copied, outcomes, strict=True):
                if outcome == b"ok":
                    moved.objects += 1
                    moved.bytes += copy.bytes
                elif outcome == b"changed":
                    waiting.append((target, generation))
                else:
                    moved.left += 1
        moved.left += len(waiting)

    def _copy_back(self, target: Target, generation: Generation) -> _Copy:
        """Raises CorruptObject when neither Redis nor the archive has it whole."""
        headers, total, frame = [], 0, self._frame()
        for names in target.names:
            key = names.key(target.ref)
            there = self._client.get_into([(key, frame)])[0]
            if there is not None:
                try:  # an engine has written it again: no worse than the archive's
                    headers.append(_verified(frame, there, target, names))
                    total += there
                    continue
                except CorruptObject:
                    pass
            size = self._read(target, names, generation, frame)
            headers.append(bytes(frame[:HEADER_BYTES]))
            total += size
            move = self._client.put if there is None else self._client.replace
            try:
                move([(key, frame[:size])], ttl=_RETURN_TTL)
            except StoreRefused as error:
                if "OOM" not in str(error):
                    raise
                raise StoreFull(
                    "Redis has no memory left to bring more back; what is not back stays in the "
                    "archive and can be read there. Archive other sessions or raise maxmemory."
                ) from error
        return _Copy(headers, total)

    # ---- copies -------------------------------------------------------------

    def _verify(self, target: Target, generation: Generation) -> _Copy:
        frame = self._frame()
        sizes = [self._read(target, names, generation, frame) for names in target.names]
        return _Copy([], sum(sizes))

    def _read(
        self, target: Target, names: ObjectNames, generation: Generation, frame: memoryview
    ) -> int:
        """Read and verify one rank's archived value; its size. Raises CorruptObject."""
        size = self.archive.get_into(object_name(names, target.ref, generation), frame)
        if size is None:
            raise CorruptObject(
                f"{target.ref.kind} {target.ref.tag}: the archive has lost it (rank {names.rank})."
            )
        _verified(frame, size, target, names)
        return size

    def _frame(self) -> memoryview:
        """This thread's buffer, touched once and used again and again."""
        if not hasattr(self._local, "frame"):
            self._local.frame = memoryview(bytearray(HEADER_BYTES + PART_BYTES))
        frame: memoryview = self._local.frame
        return frame

    async def _each(
        self,
        copy: Callable[[Target, Generation], _Copy | None],
        wanted: Sequence[tuple[Target, Generation]],
        moved: Moved,
    ) -> list[_Copy | None]:
        """Run a copy of each in the threads; None for those that are gone or not whole. The first
        other error is raised when all have ended."""
        loop = asyncio.get_running_loop()
        runs = [loop.run_in_executor(self._pool, copy, *one) for one in wanted]
        results = await asyncio.gather(*runs, return_exceptions=True)
        copies: list[_Copy | None] = []
        for result in results:
            if isinstance(result, CorruptObject):
                moved.problems.append(str(result))
                copies.append(None)
            elif isinstance(result, BaseException):
                raise result
            else:
                copies.append(result)
        return copies


def _verified(frame: memoryview, size: int, target: Target, names: ObjectNames) -> bytes:
    """The header of a whole value. Raises CorruptObject."""
    if size > len(frame):
        raise CorruptObject(
            f"{target.ref.kind} {target.ref.tag}: {size} bytes, more than an object can have."
        )
    header, payload = frame[: min(HEADER_BYTES, size)], frame[HEADER_BYTES:size]
    check_value(header, payload, names=names, ref=target.ref, decoded_bytes=target.decoded_bytes)
    return bytes(header)


def _header(frame: memoryview, size: int, target: Target, names: ObjectNames) -> bytes | None:
    try:
        return _verified(frame, size, target, names)
    except CorruptObject:
        return None


def _chunks(targets: Iterable[Target]) -> Iterator[list[Target]]:
    chunk: list[Target] = []
    size = 0
    for target in targets:
        chunk.append(target)
        size += target.decoded_bytes * len(target.names)
        if len(chunk) == _CHUNK_OBJECTS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
