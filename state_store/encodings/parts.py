"""Encoding and decoding the part of a payload that one object holds.

Segment by segment, or several of one dtype at once: whole blocks in chunks (see `blocks.py`), then
what is left of the segment and all bytes of other dtypes as they are. Nothing but the layout and
the encoding says where a chunk lies, so the stored bytes carry no table:

    raw     [ numbers      ][ numbers      ][rest][ other dtype ]
    stored  [scales|codes][scales|codes][rest][ other dtype ]

No chunk lies further back stored than raw. So encoding may go from front to back, and decoding
from back to front, within one buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from state_store.encodings.blocks import (
    BLOCK,
    CHUNK,
    Bytes,
    decode_chunk,
    encodable,
    encode_chunk,
    encoded_chunk_bytes,
    limit,
)
from state_store.encodings.segments import OPAQUE, Encoding, Segment, number_bytes
from state_store.errors import CorruptObject


class Encoded(NamedTuple):
    """How a part was stored after all, in how many bytes.

    refused: why it was stored raw although another encoding was asked for. A caller counts these.
    """

    encoding: Encoding
    stored_bytes: int
    refused: str | None = None


def encode(
    payload: memoryview, segments: tuple[Segment, ...], encoding: Encoding, into: memoryview
) -> Encoded:
    """Write a part's payload into the first bytes of `into`.

    payload:  uint8[n], where n is the sum of the segments, one of `PayloadLayout.parts`
    into:     uint8[>= n], writable; may be the same memory as `payload`, or apart from it

    A part with numbers that the encoding cannot hold (NaN, infinite, beyond `blocks.limit`) is
    written raw, and the answer says so; one without numbers to shrink is written raw.
    """
    raw = np.frombuffer(payload, np.uint8)
    plan = _plan(segments, encoding)
    _require(raw.size == plan.raw_bytes, "payload", raw.size, plan.raw_bytes)
    _require(len(into) >= raw.size, "buffer", len(into), raw.size)
    target = np.frombuffer(into, np.uint8)
    refused = plan.shrinks and next(
        (piece.dtype for piece in plan.numbers() if not encodable(raw[piece.raw], piece.dtype)),
        None,
    )
    if refused or not plan.shrinks:
        if not _same_memory(raw, target):
            target[: raw.size] = raw
        reason = refused and f"a {refused} is NaN, infinite, or {limit(refused):g} or larger"
        return Encoded(Encoding.RAW, raw.size, reason or None)
    for piece in plan.pieces:
        if piece.dtype == OPAQUE:
            target[piece.stored] = raw[piece.raw]
        else:
            encode_chunk(raw[piece.raw], piece.dtype, encoding, target[piece.stored])
    return Encoded(encoding, plan.stored_bytes)


def decode(
    stored: memoryview, segments: tuple[Segment, ...], encoding: int, into: memoryview
) -> None:
    """Write the payload that `stored` (uint8[stored_bytes]) holds into the first bytes of `into`.

    `stored` may be the first bytes of `into`, or apart from it. Raises UnknownEncoding, or
    CorruptObject if the size is not what this layout has in this encoding; `into` is unchanged.
    """
    known = Encoding.of(encoding)
    plan = _plan(segments, known)
    source = np.frombuffer(stored, np.uint8)
    if source.size != plan.stored_bytes:
        raise CorruptObject(
            f"{source.size} bytes are stored where {plan.raw_bytes} bytes in encoding "
            f"{known.name.lower()} take {plan.stored_bytes}; it is not loaded."
        )
    _require(len(into) >= plan.raw_bytes, "buffer", len(into), plan.raw_bytes)
    target = np.frombuffer(into, np.uint8)
    if not plan.shrinks:
        if not _same_memory(source, target):
            target[: source.size] = source
        return
    for piece in reversed(plan.pieces):
        if piece.dtype == OPAQUE:
            target[piece.raw] = source[piece.stored]
        else:
            decode_chunk(source[piece.stored], piece.dtype, known, target[piece.raw])


class _Piece(NamedTuple):
    """Bytes that are handled at once. dtype: of the numbers, or opaque."""

    dtype: str
    raw: slice
    stored: slice


class _Plan(NamedTuple):
    pieces: tuple[_Piece, ...]
    raw_bytes: int
    stored_bytes: int

    @property
    def shrinks(self) -> bool:
        return self.stored_bytes < self.raw_bytes

    def numbers(self) -> Iterator[_Piece]:
        return (piece for piece in self.pieces if piece.dtype != OPAQUE)


@lru_cache(maxsize=256)  # the parts of one engine's two layouts; a state may have dozens
def _plan(segments: tuple[Segment, ...], encoding: Encoding) -> _Plan:
    pieces, raw_at, stored_at = [], 0, 0
    for dtype, raw_bytes, stored_bytes in _cut(segments, encoding):
        raw_end, stored_end = raw_at + raw_bytes, stored_at + stored_bytes
        pieces.append(_Piece(dtype, slice(raw_at, raw_end), slice(stored_at, stored_end)))
        raw_at, stored_at = raw_end, stored_end
    return _Plan(tuple(pieces), raw_at, stored_at)


def _cut(segments: tuple[Segment, ...], encoding: Encoding) -> Iterator[tuple[str, int, int]]:
    """(dtype, raw bytes, stored bytes) of each piece."""
    for dtype, size in _runs(segments):
        width = number_bytes(dtype)
        left = size
        if encoding is not Encoding.RAW and width is not None:
            while numbers := min(left // width // BLOCK * BLOCK, CHUNK):
                yield dtype, numbers * width, encoded_chunk_bytes(numbers, encoding)
                left -= numbers * width
        while opaque := min(left, CHUNK):
            yield OPAQUE, opaque, opaque
            left -= opaque


def _runs(segments: tuple[Segment, ...]) -> Iterator[Segment]:
    """Neighbours of one dtype as one where no block would reach across their border.

    A tensor's share of a page is a few thousand numbers; larger chunks encode three times as fast.
    """
    run = Segment(OPAQUE, 0)
    for dtype, size in segments:
        width = number_bytes(dtype)
        if dtype == run.dtype and width is not None and run.bytes % (BLOCK * width) == 0:
            run = Segment(dtype, run.bytes + size)
        else:
            yield run
            run = Segment(dtype, size)
    yield run


def _same_memory(one: Bytes, other: Bytes) -> bool:
    return bool(one.ctypes.data == other.ctypes.data)


def _require(fits: bool, what: str, found: int, wanted: int) -> None:
    if not fits:
        raise ValueError(f"the {what} has {found} bytes where the layout has {wanted}.")
