"""What a session's file has besides tokens, pages and states: files, and records of effects.

All of it is contents, each once, one after the other in one tensor. A set of files is a content,
its body, and those that it needs; a record of an effect is one.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from state_store.effects import EffectRecord, Effects
from state_store.errors import InvalidExport
from state_store.files import Files, FileSet
from state_store.portable.manifest import Content, Manifest, SetOfFiles
from state_store.records import Session, Snapshot

_AT_ONCE = 8 << 20  # bytes of contents in memory while they are stored
_POLL = 0.1  # seconds between looks whether somebody still waits for a content
_MOST_AT_ONCE = 256  # contents of one script


Ids = Mapping[str, str]
Read = Callable[[int], Awaitable[bytes]]


class EffectsAbroad(Protocol):
    """Takes records of effects from one lineage to another, for who knows what is in them."""

    def leaving(
        self, values: Iterable[bytes], session: Session, history: Sequence[Snapshot], ids: Ids
    ) -> list[bytes]:
        """Those that are of the session's history, root first. ids: that its snapshots have in the
        file, where they are merged into others."""

    def arriving(self, value: bytes, ids: Ids) -> tuple[str, bytes]:
        """Name and value of a record in the new lineage. ids: that snapshots have there, by those
        that they had. Raises ValueError for what is no record."""


@dataclass
class Besides:
    """Of a session that is exported.

    sizes: bytes of each content by its SHA-256, in the order of the file
    sets:  SHA-256 of the body, and of what it needs, by the name of the set
    effects: SHA-256 of each record
    """

    sizes: dict[str, int] = field(default_factory=dict)
    sets: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    effects: list[str] = field(default_factory=list)
    _values: dict[str, bytes] = field(default_factory=dict)
    _bodies: dict[str, str] = field(default_factory=dict)
    _begin: Callable[[str], Future[bytes]] = field(init=False)
    _loop: asyncio.AbstractEventLoop = field(init=False)

    @classmethod
    async def gather(
        cls, files: Files, session: Session, snapshots: Sequence[Snapshot], effects: Iterable[bytes]
    ) -> Besides:
        """Raises FilesMissing, CorruptObject, VaultLocked."""
        found = cls()
        for name in dict.fromkeys(one.files for one in snapshots if one.files is not None):
            held = await files.get_set(session, name)
            body = found._add(held.body)
            found._bodies[body] = name
            found.sizes |= await files.sizes(session, name)
            found.sets[name] = (body, held.blobs)
        for value in effects:
            found.effects.append(found._add(value))
            found._values[found.effects[-1]] = value
        found._loop = loop = asyncio.get_running_loop()

        async def read(digest: str) -> bytes:
            if digest in found._bodies:
                return (await files.get_set(session, found._bodies[digest])).body
            if digest in found._values:
                return found._values[digest]
            return await files.get(session, digest)

        found._begin = lambda digest: asyncio.run_coroutine_threadsafe(read(digest), loop)
        return found

    def read(self, digest: str, stop: threading.Event) -> bytes:
        """A content, for a thread beside the event loop. Raises FilesMissing, CorruptObject;
        InterruptedError when `stop` is set or the loop has ended meanwhile."""
        reading = self._begin(digest)
        while not wait([reading], timeout=_POLL).done:
            if stop.is_set() or not self._loop.is_running():
                reading.cancel()
                raise InterruptedError("nobody waits for this any more")
        return reading.result()

    @property
    def contents(self) -> list[Content]:
        return [Content(sha256=bytes.fromhex(one), size=size) for one, size in self.sizes.items()]

    @property
    def set_rows(self) -> list[SetOfFiles]:
        places = self._places()
        return [
            SetOfFiles(body=places[body], needs=[places[one] for one in needs])
            for body, needs in self.sets.values()
        ]

    @property
    def effect_rows(self) -> list[int]:
        places = self._places()
        return [places[digest] for digest in self.effects]

    def _places(self) -> dict[str, int]:
        return {digest: place for place, digest in enumerate(self.sizes)}

    def _add(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.sizes[digest] = len(content)
        return digest


async def take_files(files: Files, session: Session, manifest: Manifest, read: Read) -> list[str]:
    """Keep the files of an export; the name of each set. read: a content, by its number"""
    needed = {place for one in manifest.files for place in one.needs}
    for batch in _batches(manifest, sorted(needed)):
        await files.put(session, [await read(place) for place in batch])
    names = [content.sha256.hex() for content in manifest.contents]
    return [
        await files.put_set(
            session, FileSet(await read(one.body), tuple(names[place] for place in one.needs))
        )
        for one in manifest.files
    ]


async def take_effects(
    effects: Effects,
    session: Session,
    manifest: Manifest,
    read: Read,
    abroad: EffectsAbroad,
    ids: Ids,
    invalid: Callable[[str], InvalidExport],
) -> None:
    """Record the effects of an export in its new session.

    ids:     of its snapshots now, by those that they had
    invalid: what to raise, and why, for what is no record, and for a second one of one effect
    """
    for place in manifest.effects:
        content = await read(place)
        try:
            name, value = abroad.arriving(content, ids)
        except ValueError as error:
            raise invalid(f"a record of an effect is none: {error}") from error
        if not await effects.replace(session.id, name, EffectRecord(None, b""), value):
            raise invalid("two records are of one effect")


def _batches(manifest: Manifest, places: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for place in places:
        batch.append(place)
        size += manifest.contents[place].size
        if size > _AT_ONCE or len(batch) == _MOST_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
