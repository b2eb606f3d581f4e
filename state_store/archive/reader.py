"""Reading archived objects straight into an engine's buffers, without passing Redis."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from state_store.archive.base import Archive
from state_store.archive.names import Generation, object_name
from state_store.layout import ObjectNames, ObjectRef
from state_store.resp import Value

READERS = 4


class ArchiveReader:
    """Archived objects of one rank. Blocking and thread-safe.

    What it reads is not verified: the caller checks the frame, as with what Redis answers.
    An object moves between Redis and the archive at any time, in one step. So a caller looks in
    Redis, then for the cold key, then here; and when one of the last two finds nothing, looks in
    Redis once more before it takes the object for missing.
    Raises ArchiveUnavailable, ArchiveRefused, and CorruptObject for a malformed generation.
    """

    def __init__(self, archive: Archive, names: ObjectNames) -> None:
        self._archive = archive
        self._names = names
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="torpor-archive")

    def close(self) -> None:
        self._pool.shutdown()

    def read_into(self, ref: ObjectRef, generation: str | bytes, value: Value) -> int | None:
        """Read one object; its stored size, None if it is not there.

        generation: value of the object's cold key
        One that is larger than its buffers is skipped: they hold garbage then.
        """
        name = object_name(self._names, ref, Generation.parse(generation))
        return self._archive.get_into(name, value)

    def read_all(self, items: Sequence[tuple[ObjectRef, str | bytes, Value]]) -> list[int | None]:
        """`read_into` for many objects, READERS at a time; no memory is used but the buffers."""
        reads = [self._pool.submit(self.read_into, *item) for item in items]
        try:
            return [read.result() for read in reads]
        finally:  # after an error nobody may still be writing to the buffers
            for read in reads:
                read.cancel()
            wait(reads)
