"""What a snapshot of a workspace names: every path and the hash of what is there."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# A manifest may come from anybody, with a session that is imported: nothing it names may lead out
# of the workspace, nor out of the folder of contents.


def _inside(path: str) -> str:
    if "\0" in path or {"", ".", ".."} & set(path.split("/")):
        raise ValueError("a path in a workspace is relative, without empty steps, `.` and `..`")
    return path


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, AfterValidator(_inside)]


class File(_Entry):
    """size: bytes; sha256: of the content, hexadecimal"""

    kind: Literal["file"] = "file"
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    executable: bool


class Folder(_Entry):
    kind: Literal["folder"] = "folder"


class Link(_Entry):
    """A symbolic link. It is kept and put back as it is, and never followed."""

    kind: Literal["link"] = "link"
    target: Annotated[str, Field(pattern=r"^[^\x00]+$")]


class Manifest(BaseModel):
    """entries: by path, so that the same files make the same id wherever they are

    Times, owners and other permissions are not part of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    entries: tuple[Annotated[File | Folder | Link, Field(discriminator="kind")], ...]

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        if any(one.path >= other.path for one, other in pairwise(self.entries)):
            raise ValueError(
                "the files of a workspace stand in the order of their paths, each once"
            )
        folders = {"", *(one.path for one in self.entries if isinstance(one, Folder))}
        for one in self.entries:
            if one.path.rpartition("/")[0] not in folders:
                raise ValueError(f"{one.path!r} is in a folder that the workspace does not have")
        return self

    @property
    def id(self) -> str:
        """Name of the snapshot: 64 hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Of all its files together."""
        return sum(entry.size for entry in self.entries if isinstance(entry, File))
