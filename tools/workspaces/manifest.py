"""What a snapshot of a workspace names: every path and the hash of what is there."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str


class File(_Entry):
    """size: bytes; sha256: of the content, hexadecimal"""

    kind: Literal["file"] = "file"
    size: int
    sha256: str
    executable: bool


class Folder(_Entry):
    kind: Literal["folder"] = "folder"


class Link(_Entry):
    """A symbolic link. It is kept and put back as it is, and never followed."""

    kind: Literal["link"] = "link"
    target: str


class Manifest(BaseModel):
    """entries: by path, so that the same files make the same id wherever they are

    Times, owners and other permissions are not part of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    entries: tuple[Annotated[File | Folder | Link, Field(discriminator="kind")], ...]

    @property
    def id(self) -> str:
        """Name of the snapshot: 64 hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Of all its files together."""
        return sum(entry.size for entry in self.entries if isinstance(entry, File))
