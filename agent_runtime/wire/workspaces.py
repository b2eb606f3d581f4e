"""What travels about workspaces: the files of a session's tools, as its snapshots have them."""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Self

from pydantic import (
    Base64Encoder,
    EncodedBytes,
    Field,
    model_validator,
)

from agent_runtime.wire.base import Wire
from agent_runtime.wire.lists import Several
from tools.workspaces import File, Manifest

CHUNK = 1 << 20
"""Bytes that contents are cut into."""
MOST_BYTES, MOST_FILES = 256 << 20, 20_000
MOST_CHUNKS = 64
"""In one request."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(Base64Encoder):
    """Pydantic's own drops characters that are none of base64's, and what is behind the padding:
    what a name was given back for would not be what was sent."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        return base64.b64decode(data, validate=True)


class WorkspaceFiles(Wire):
    """All files of a workspace. chunks: SHA-256 of the pieces of each content of more than 1 MiB,
    by its own; smaller ones are one piece."""

    manifest: Manifest
    chunks: dict[Sha256, Several[Sha256]] = {}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        entries = self.manifest.entries
        if self.manifest.bytes > MOST_BYTES or len(entries) > MOST_FILES:
            raise ValueError(
                f"{len(entries)} files of {self.manifest.bytes} bytes; a workspace may have "
                f"{MOST_FILES} of {MOST_BYTES}"
            )
        for one in self.contents():
            if len(self.pieces(one)) != max(1, -(-one.size // CHUNK)):
                raise ValueError(
                    f"{one.path} of {one.size} bytes has not as many pieces as it needs"
                )
            if len(self.pieces(one)) == 1 and self.pieces(one) != [one.sha256]:
                raise ValueError(f"{one.path} is one piece, and that is another content")
        sizes = {one.sha256: one.size for one in self.contents()}
        for entry in entries:
            if isinstance(entry, File) and entry.size != sizes[entry.sha256]:
                raise ValueError(f"{entry.path} has the content of another size")
        return self

    def contents(self) -> list[File]:
        """One file for each content."""
        found = {one.sha256: one for one in self.manifest.entries if isinstance(one, File)}
        return list(found.values())

    def pieces(self, file: File) -> list[str]:
        """SHA-256 of the pieces of a file's content, in their order."""
        return self.chunks.get(file.sha256, [file.sha256])

    def sizes(self, file: File) -> list[int]:
        """Bytes of each of these pieces."""
        count = len(self.pieces(file))
        return [CHUNK] * (count - 1) + [file.size - CHUNK * (count - 1)]

    def blobs(self) -> tuple[str, ...]:
        """All pieces, each once."""
        return tuple(dict.fromkeys(piece for one in self.contents() for piece in self.pieces(one)))


class WorkspaceView(Wire):
    """version: of the workspace, None if the snapshot has none; then there are no files"""

    version: str | None
    files: WorkspaceFiles


class Names(Wire):
    """SHA-256 of pieces of contents."""

    names: Several[Sha256] = Field(max_length=MOST_FILES + MOST_BYTES // CHUNK)


_Piece = Annotated[bytes, EncodedBytes(encoder=_Strict), Field(max_length=CHUNK)]


class Pieces(Wire):
    """Contents, or pieces of them, of at most 1 MiB each."""

    pieces: Several[_Piece] = Field(max_length=MOST_CHUNKS)


class Version(Wire):
    """To give with the turn that the files go with; until one is committed they expire."""

    version: str


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
