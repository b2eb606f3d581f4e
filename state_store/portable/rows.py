"""Rows on their way between a store and a file: a few at a time, in memory that stays in use."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from state_store.archive.base import Archive
from state_store.archive.reader import ArchiveReader
from state_store.buffers import Buffers
from state_store.codec import HEADER_BYTES, Frame
from state_store.forms import StoredForm
from state_store.layout import PART_BYTES, ObjectNames, ObjectRef, parts_of
from state_store.objects import ObjectClient
from state_store.payloads import Payloads
from state_store.portable.manifest import Group

_PARTS = 16
"""Parts of rows in memory at once, more only if one row has more."""

_T = TypeVar("_T")


class Row(NamedTuple):
    """One page or state on one rank. payload: its bytes in memory, in turn"""

    number: int
    name: str
    items: list[tuple[ObjectRef, Frame]]

    @property
    def payload(self) -> list[memoryview]:
        return [frame.payload for _, frame in self.items]

    def sum(self) -> bytes:
        """SHA-256 of the payload."""
        state = hashlib.sha256()
        for view in self.payload:
            state.update(view)
        return state.digest()


class Place(NamedTuple):
    """Where objects are: a client to the store, its prefix, and the archive if there is one."""

    client: ObjectClient
    prefix: str
    archive: Archive | None

    @contextlib.contextmanager
    def payloads(self, fingerprint_id: str, rank: int, form: StoredForm) -> Iterator[Payloads]:
        names = ObjectNames(self.prefix, fingerprint_id, rank)
        reader = None if self.archive is None else ArchiveReader(self.archive, names)
        try:
            yield Payloads(self.client, names, form=form, archive=reader)
        finally:
            if reader is not None:
                reader.close()


def batches(group: Group, names: Sequence[str], stop: threading.Event) -> Iterator[list[Row]]:
    """All rows of a group, some at a time, each in memory that the next ones take over.

    names: of all rows
    stop:  ends it, with an error, when nobody waits for it any more
    """
    parts = parts_of(group.row_bytes)
    at_once = min(max(1, _PARTS // parts), max(1, group.rows))
    buffers = Buffers(at_once * parts, HEADER_BYTES + min(group.row_bytes, PART_BYTES))
    with buffers.borrow(buffers.count, timeout=0) as loan:
        for start in range(0, group.rows, at_once):
            if stop.is_set():
                raise InterruptedError("nobody waits for this any more")
            yield [
                Row(
                    number,
                    names[number],
                    _items(group, names[number], loan.views[place * parts : (place + 1) * parts]),
                )
                for place, number in enumerate(range(start, min(start + at_once, group.rows)))
            ]


async def in_thread(
    work: Callable[[threading.Event], _T], *, discard: Callable[[_T], None] = lambda _: None
) -> _T:
    """Run blocking work beside the event loop. Who is cancelled waits until it has stopped: it
    uses files and memory of the caller's.

    discard: what to do with a result that nobody waits for any more
    """
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(Exception):
            discard(await running)
        raise


def _items(group: Group, name: str, views: Sequence[memoryview]) -> list[tuple[ObjectRef, Frame]]:
    items = []
    for part, view in enumerate(views):
        size = min(PART_BYTES, group.row_bytes - part * PART_BYTES)
        frame = Frame(view[:HEADER_BYTES], view[HEADER_BYTES : HEADER_BYTES + size])
        items.append((ObjectRef(group.kind, name, part), frame))
    return items
