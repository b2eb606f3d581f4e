"""How a content of files is known that is in the archive, and reading it there."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from typing import Self

from state_store.archive.base import Archive
from state_store.archive.names import Generation, file_name
from state_store.errors import CorruptObject

_COLD = re.compile(r"(\S+) (\d{1,8}) ([0-9a-f]{64})(?: \d+)?")
_MOST_BYTES = 5 << 20  # more than any content has, sealed ones too: see `files.BLOB_BYTES`


@dataclass(frozen=True)
class ColdFile:
    """size, digest: bytes and SHA-256, in hex, of what was in Redis: sealed of an encrypted tenant.

    Needs no key to be verified, so whoever moves files needs none.
    """

    generation: Generation
    size: int
    digest: str

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Raises CorruptObject."""
        text = value.decode("ascii", "replace")
        match = _COLD.fullmatch(text)
        if match is None or int(match[2]) > _MOST_BYTES:
            raise CorruptObject(f"{text[:160]!r} does not say where the archive has a content.")
        generation, size, digest = match.groups()
        return cls(Generation.parse(generation), int(size), digest)

    async def read(self, archive: Archive, lineage: str, blob: str) -> bytes:
        """What was in Redis. Raises CorruptObject when the archive does not have it whole,
        ArchiveUnavailable, ArchiveRefused."""
        return await asyncio.to_thread(self._read, archive, lineage, blob)

    def _read(self, archive: Archive, lineage: str, blob: str) -> bytes:
        frame = bytearray(self.size)
        size = archive.get_into(file_name(lineage, blob, self.generation), memoryview(frame))
        if size is None:
            raise CorruptObject(f"file content {blob[:12]}…: the archive has lost it.")
        if size != self.size or hashlib.sha256(frame).hexdigest() != self.digest:
            raise CorruptObject(f"file content {blob[:12]}… is damaged in the archive.")
        return bytes(frame)
