"""The outside of an export: one safetensors file, whose parts lie in it without gaps.

    8 bytes   length of the header, little endian
    header    JSON: dtype, shape and place of each tensor; padded with spaces to 4096 bytes
    data      the tensors one after the other

Every reader of safetensors can open it. Our own reads a file that anybody may have made: sizes are
compared with the file's before anything is allocated, and what does not fit exactly is refused.
Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from state_store.errors import InvalidExport

HEADER_LIMIT = 1 << 20  # bytes
_ALIGNMENT = 4096
_LENGTH = 8  # bytes of the header's length
_METADATA = "__metadata__"
_WIDTH = {"U8": 1, "U32": 4}
_NAME = re.compile(r"[a-z0-9.]{1,64}")


class Tensor(NamedTuple):
    """dtype: of safetensors; shape: [n], or [rows, bytes of each]"""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * _WIDTH[self.dtype]


class Layout:
    """Where the tensors of a file begin."""

    def __init__(self, tensors: Mapping[str, Tensor], start: int) -> None:
        """tensors: in the order of the file; start: bytes before the first"""
        self.tensors = dict(tensors)
        self.starts: dict[str, int] = {}
        self._base = start
        for name, tensor in tensors.items():
            self.starts[name] = start
            start += tensor.nbytes
        self.size = start

    @classmethod
    def planned(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Self:
        """For a file whose metadata is as long as this."""
        length = _LENGTH + len(cls(tensors, 0)._json(metadata))
        return cls(tensors, -(-length // _ALIGNMENT) * _ALIGNMENT)

    def header(self, metadata: Mapping[str, str]) -> bytes:
        """All bytes before the first tensor."""
        text = self._json(metadata).ljust(self._base - _LENGTH)
        return len(text).to_bytes(_LENGTH, "little") + text

    def row(self, name: str, number: int) -> int:
        """Where a row of a tensor begins."""
        tensor = self.tensors[name]
        return self.starts[name] + number * (tensor.nbytes // tensor.shape[0])

    def _json(self, metadata: Mapping[str, str]) -> bytes:
        entries: dict[str, Any] = {_METADATA: dict(metadata)}
        for name, tensor in self.tensors.items():
            begin = self.starts[name] - self._base
            entries[name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [begin, begin + tensor.nbytes],
            }
        return json.dumps(entries, separators=(",", ":")).encode()


class Reader:
    """A file that is open for reading, with its layout checked. Raises InvalidExport."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Not to wait for whoever would write to a pipe.
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise self.invalid(f"it cannot be opened: {error}") from error
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise self.invalid("it is no plain file")
            self.layout, self.metadata = self._header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, name: str) -> bytearray:
        """All of a tensor; for small ones."""
        content = bytearray(self.layout.tensors[name].nbytes)
        self.read_into([memoryview(content)], self.layout.starts[name])
        return content

    def read_into(self, views: Sequence[memoryview], at: int) -> None:
        """Fill `views` in turn from `at` on."""
        for view in views:
            done = 0
            while done < len(view):
                try:
                    count = os.preadv(self._file, [view[done:]], at)
                except OSError as error:
                    raise self.invalid(f"it cannot be read: {error}") from error
                if not count:
                    raise self.invalid("it ends before it should")
                done += count
                at += count

    def invalid(self, reason: str) -> InvalidExport:
        name = self.path.name  # without the folder: over HTTP that is the service's own
        return InvalidExport(f"{name} cannot be imported: {reason}. Nothing was imported.")

    def _header(self) -> tuple[Layout, dict[str, str]]:
        size = os.fstat(self._file).st_size
        length = bytearray(_LENGTH)
        self.read_into([memoryview(length)], 0)
        header_bytes = int.from_bytes(length, "little")
        if not 0 < header_bytes <= min(HEADER_LIMIT, size - _LENGTH):
            raise self.invalid(f"its header cannot have {header_bytes} bytes")
        text = bytearray(header_bytes)
        self.read_into([memoryview(text)], _LENGTH)
        try:
            header = _OBJECT.validate_python(
                json.loads(text.decode(), object_pairs_hook=_without_duplicates)
            )
            metadata = _STRINGS.validate_python(header.pop(_METADATA, None))
            entries = _ENTRIES.validate_python(header)
        except (ValueError, RecursionError) as error:
            raise self.invalid(f"its header is none of safetensors ({_short(error)})") from error
        tensors, at = {}, 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
            tensors[name] = tensor = Tensor(entry.dtype, tuple(entry.shape))
            if not _NAME.fullmatch(name) or entry.data_offsets != [at, at + tensor.nbytes]:
                raise self.invalid(f"{name[:64]!r} is not where it should be in it")
            at += tensor.nbytes
        layout = Layout(tensors, _LENGTH + header_bytes)
        if layout.size != size:
            raise self.invalid(f"it has {size} bytes and should have {layout.size}")
        return layout, metadata


_Size = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    dtype: Literal["U8", "U32"]
    shape: Annotated[list[_Size], Field(min_length=1, max_length=2)]
    data_offsets: Annotated[list[_Size], Field(min_length=2, max_length=2)]


_ENTRIES = TypeAdapter(dict[str, _Entry])
_OBJECT = TypeAdapter(dict[str, Any])
_STRINGS = TypeAdapter(dict[str, str])


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _short(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
