"""Which bytes of a payload hold which dtype, and the ids of the encodings."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from state_store.errors import UnknownEncoding
from state_store.layout import PART_BYTES, parts_of

OPAQUE = "opaque"
"""dtype of bytes that are stored as they are: those of a number that a cut divides."""
_NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Encoding(enum.IntEnum):
    """The encoding byte of an object's header. A number, once used, never means anything else."""

    RAW = 0
    """The bytes of the device."""
    FP8 = 1
    """float8 e4m3 and one power of two per block: keeps each number to 1/16 of itself."""
    INT8 = 2
    """int8 and one scale per block: keeps each number to 1/254 of the block's largest."""

    @classmethod
    def of(cls, header_byte: int) -> Encoding:
        """Raises UnknownEncoding."""
        try:
            return cls(header_byte)
        except ValueError:
            raise UnknownEncoding(
                f"encoding {header_byte} is not known to this version, which reads "
                f"{', '.join(f'{e.value} ({e.name.lower()})' for e in cls)}. The object is kept; "
                "read it with the version that wrote it."
            ) from None


class Segment(NamedTuple):
    """Consecutive numbers of one dtype, named as torch does: `float32`, `bfloat16`, ...

    A dtype that no encoding shrinks is legal; its bytes are stored as they are.
    """

    dtype: str
    bytes: int


@dataclass(frozen=True)
class PayloadLayout:
    """The segments of one kind of object, in payload order; see `engine/linker/pools.py`.

    Each tensor of each layer should be its own segment even if its neighbours have its dtype:
    numbers that share a scale should be of a size.
    """

    segments: tuple[Segment, ...]

    @cached_property
    def payload_bytes(self) -> int:
        return sum(segment.bytes for segment in self.segments)

    @cached_property
    def parts(self) -> tuple[tuple[Segment, ...], ...]:
        """The segments of each part, in the order of the parts.

        A number that the cut divides is opaque in both parts.
        """
        count = parts_of(self.payload_bytes)
        return tuple(
            tuple(_merged(self._between(part * PART_BYTES, (part + 1) * PART_BYTES)))
            for part in range(count)
        )

    def _between(self, start: int, end: int) -> Iterable[Segment]:
        offset = 0
        for dtype, size in self.segments:
            low, high = max(start, offset) - offset, min(end, offset + size) - offset
            if low < high:
                width = _NUMBER_BYTES.get(dtype, 1)
                whole = max(low, min(-(-low // width) * width, high))
                last = max(whole, high // width * width)
                yield Segment(OPAQUE, whole - low)
                yield Segment(dtype, last - whole)
                yield Segment(OPAQUE, high - last)
            offset += size


def number_bytes(dtype: str) -> int | None:
    """Bytes of one number of a dtype that can be encoded; None for any other."""
    return _NUMBER_BYTES.get(dtype)


def _merged(segments: Iterable[Segment]) -> Iterable[Segment]:
    """Without empty segments; neighbouring opaque ones as one."""
    opaque = 0
    for segment in segments:
        if segment.dtype == OPAQUE:
            opaque += segment.bytes
            continue
        if segment.bytes:
            if opaque:
                yield Segment(OPAQUE, opaque)
                opaque = 0
            yield segment
    if opaque:
        yield Segment(OPAQUE, opaque)
