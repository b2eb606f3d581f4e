"""Rounding blocks of numbers to one byte each.

A chunk is up to `CHUNK` numbers, whole blocks of `BLOCK`. Encoded it is the scales of its blocks,
then one code per number.

    fp8   scale: uint8, k + 127 for the smallest k with |x| <= 448 * 2^k in the block, or 0
          code:  x / 2^k in float8 e4m3, rounded to nearest, ties to even
          |x - x'| <= max(|x| / 16, m / 2^17), m the block's largest magnitude
    int8  scale: float32 s = m / 127, or 0
          code:  x / s rounded to nearest, ties to even
          |x - x'| <= m / 254 * (1 + 2^-15)

and half a unit in the last place more where int8 is decoded to a 16-bit dtype. The scale of fp8 is
a power of two because for a float format it costs no precision. Blocks whose numbers are all below
`TINY` in magnitude become zeros. Zeros stay zeros; int8 makes -0 into 0. Encoding again what was
decoded gives the same numbers (fp8; int8 of float32, where 127 s divided by 127 is s for every s
that came of such a division), so that a state that sleeps twice loses once.

Numbers at or beyond `limit(dtype)`, infinities and NaN cannot be encoded: `encodable` says so.
No step relies on denormal numbers, which torch may have switched off in the caller's thread.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from state_store.encodings.segments import Encoding, number_bytes

BLOCK = 128  # numbers; one head's keys of one token, or one row of an SSM state, in Nemotron 3
CHUNK = 1 << 16  # numbers; its working memory stays in the second-level cache
TINY = 2.0**-100

Bytes = NDArray[np.uint8]
Halves = NDArray[np.uint16]
Bits = NDArray[np.uint32]
Floats = NDArray[np.float32]
_Code = TypeVar("_Code", np.uint8, np.uint16)
_Number = TypeVar("_Number", bound=np.number[Any])

_SCALE_BYTES = {Encoding.FP8: 1, Encoding.INT8: 4}
# Decoded fp8 may be larger than what was encoded, by 1/16, and float16 ends at 65,504.
_LIMITS = {"float32": 2.0**120, "bfloat16": 2.0**120, "float16": 2.0**15}


def limit(dtype: str) -> float:
    """Magnitude from which on a number of this dtype is not encoded."""
    return _LIMITS[dtype]


def encoded_chunk_bytes(numbers: int, encoding: Encoding) -> int:
    return numbers // BLOCK * _SCALE_BYTES[encoding] + numbers


def encodable(raw: Bytes, dtype: str) -> bool:
    """Whether all numbers of a chunk are finite and below the limit."""
    if dtype == "float32":
        bits = _own(raw, _room.bits)
        np.bitwise_and(bits, np.uint32(0x7FFFFFFF), out=bits)
        return bool(bits.max() < np.float32(limit(dtype)).view(np.uint32))
    halves = _own(raw, _room.halves)
    np.bitwise_and(halves, np.uint16(0x7FFF), out=halves)
    if dtype == "float16":
        return bool(halves.max() < np.float16(limit(dtype)).view(np.uint16))
    return bool(halves.max() < _bfloat16(limit(dtype)))


def encode_chunk(raw: Bytes, dtype: str, encoding: Encoding, target: Bytes) -> None:
    """raw: `numbers` encodable numbers; target: uint8[`encoded_chunk_bytes(numbers)`].

    All of `raw` is read before anything is written, so the two may overlap.
    """
    if encoding is Encoding.FP8:
        scales, codes = _to_fp8(_load_halves(raw, dtype))
    else:
        scales, codes = _to_int8(_load_floats(raw, dtype))
    target[: scales.size] = scales
    target[scales.size :] = codes


def decode_chunk(stored: Bytes, dtype: str, encoding: Encoding, target: Bytes) -> None:
    """The reverse, under the same rule about overlap."""
    numbers = target.size // (number_bytes(dtype) or 1)
    scales, codes = stored[:-numbers].copy(), _own(stored[-numbers:], _room.codes)
    if encoding is Encoding.FP8:
        _store_halves(_from_fp8(scales, codes), dtype, target)
    else:
        _store_floats(_from_int8(scales, codes), dtype, target)


# fp8. Numbers are bfloat16 here: e4m3 has fewer digits at any power of two, and of a float32 no
# more than the leading bits and whether others follow decide how it is rounded.

_LOW = 16  # the smallest code but zero stands for 2^-9; from 2^-16 on down everything is zero


def _to_fp8(numbers: Halves) -> tuple[Bytes, Bytes]:
    """(uint8[blocks] scales, uint8[numbers] codes). Overwrites `numbers`."""
    signs = _room.spare[: numbers.size]
    np.right_shift(numbers, np.uint16(8), out=signs)
    np.bitwise_and(signs, np.uint16(0x80), out=signs)
    np.bitwise_and(numbers, np.uint16(0x7FFF), out=numbers)
    blocks = numbers.reshape(-1, BLOCK)
    largest: Halves = blocks.max(axis=1)
    # 448 is 1.75 * 2^8: a larger mantissa carries into the exponent, then 8 is taken off.
    scales = ((largest + np.uint16(0x1F)) >> np.uint16(7)) - np.uint16(8)
    floors = (scales - np.uint16(_LOW)) << np.uint16(7)
    small = largest < _bfloat16(TINY)
    scales[small], floors[small] = 0, 0x7FFF
    np.maximum(blocks, floors[:, None], out=blocks)
    np.subtract(blocks, floors[:, None], out=blocks)
    codes = _look_up(_E4M3_CODES, numbers, _room.codes)
    np.bitwise_or(codes, signs, out=codes, casting="unsafe")
    return scales.astype(np.uint8), codes


def _from_fp8(scales: Bytes, codes: Bytes) -> Halves:
    places = _room.spare[: codes.size]
    np.copyto(places, codes)
    blocks = places.reshape(-1, BLOCK)
    np.bitwise_or(blocks, (scales.astype(np.uint16) << np.uint16(8))[:, None], out=blocks)
    return _look_up(_E4M3_NUMBERS, places, _room.halves)


def _e4m3_values() -> NDArray[np.float64]:
    """What the codes 0..126 stand for; 127 is NaN and never written."""
    exponent, mantissa = np.divmod(np.arange(127), 8)
    normal = (8 + mantissa) * 2.0 ** (exponent - 10.0)
    return np.where(exponent > 0, normal, mantissa * 2.0**-9)


def _e4m3_codes() -> Bytes:
    """The code of each bfloat16 from 2^-16 to 2^9, exclusive, by its bits above those of 2^-16."""
    exponent, mantissa = np.divmod(np.arange((_LOW + 9) << 7), 128)
    number = (1 + mantissa / 128) * 2.0 ** (exponent - _LOW)
    values = _e4m3_values()
    above = np.clip(np.searchsorted(values, number), 1, values.size - 1)
    under = above - 1
    middle = (values[under] + values[above]) / 2
    up = (number > middle) | ((number == middle) & (above % 2 == 0))
    return np.where(up, above, under).astype(np.uint8)


def _e4m3_numbers() -> Halves:
    """bfloat16[256 scales, 256 codes], as bits; of scales that are never written, zeros."""
    scales = np.arange(256)
    powers = np.where((scales > 0) & (scales < 127 + 120), 2.0 ** (scales - 127.0), 0.0)
    values = np.append(_e4m3_values(), 0.0)
    numbers = powers[:, None] * np.concatenate([values, -values])
    bits: Bits = numbers.astype(np.float32).view(np.uint32) >> np.uint32(16)
    return bits.astype(np.uint16).ravel()


def _look_up(table: NDArray[_Code], places: Halves, room: NDArray[_Code]) -> NDArray[_Code]:
    """table[places], in the first elements of `room`."""
    found = room[: places.size]
    indices = _room.indices[: places.size]
    np.copyto(indices, places)  # `take` would make such an array itself, in fresh memory
    np.take(table, indices, out=found, mode="clip")  # `raise` would copy `out`
    return found


# int8. Numbers are float32 here.


def _to_int8(numbers: Floats) -> tuple[Bytes, Bytes]:
    """(uint8[4 * blocks] scales, uint8[numbers] codes). Overwrites `numbers`."""
    magnitudes = _room.bits[: numbers.size]
    np.bitwise_and(numbers.view(np.uint32), np.uint32(0x7FFFFFFF), out=magnitudes)
    largest = magnitudes.reshape(-1, BLOCK).max(axis=1).view(np.float32)
    scales: Floats = largest / np.float32(127)
    scales[largest < TINY] = 0
    blocks = numbers.reshape(-1, BLOCK)
    np.divide(blocks, np.where(scales > 0, scales, np.float32(1))[:, None], out=blocks)
    np.rint(numbers, out=numbers)
    codes = _room.codes[: numbers.size]
    np.copyto(codes.view(np.int8), numbers, casting="unsafe")
    return scales.view(np.uint8), codes


def _from_int8(scales: Bytes, codes: Bytes) -> Floats:
    numbers = _room.floats[: codes.size]
    np.copyto(numbers, codes.view(np.int8))
    blocks = numbers.reshape(-1, BLOCK)
    np.multiply(blocks, scales.view(np.float32)[:, None], out=blocks)
    return numbers


# Numbers of the three dtypes, from and to bytes at any address.


def _load_floats(raw: Bytes, dtype: str) -> Floats:
    if dtype == "float32":
        return _own(raw, _room.floats)
    halves = _own(raw, _room.halves)
    numbers = _room.floats[: halves.size]
    if dtype == "float16":
        np.copyto(numbers, halves.view(np.float16))
    else:
        bits = numbers.view(np.uint32)
        np.copyto(bits, halves)
        np.left_shift(bits, np.uint32(16), out=bits)
    return numbers


def _store_floats(numbers: Floats, dtype: str, target: Bytes) -> None:
    """Rounds to nearest, ties to even. Overwrites `numbers`."""
    if dtype == "float32":
        target[:] = numbers.view(np.uint8)
        return
    halves = _room.halves[: numbers.size]
    if dtype == "float16":
        np.copyto(halves.view(np.float16), numbers, casting="same_kind")
    else:
        bits, odd = numbers.view(np.uint32), _room.bits[: numbers.size]
        np.right_shift(bits, np.uint32(16), out=odd)
        np.bitwise_and(odd, np.uint32(1), out=odd)
        np.add(odd, np.uint32(0x7FFF), out=odd)
        np.add(bits, odd, out=bits)
        np.right_shift(bits, np.uint32(16), out=bits)
        np.copyto(halves, bits, casting="unsafe")
    target[:] = halves.view(np.uint8)


def _load_halves(raw: Bytes, dtype: str) -> Halves:
    """bfloat16 bits; the last is set if the number has further digits."""
    if dtype == "bfloat16":
        return _own(raw, _room.halves)
    bits = _load_floats(raw, dtype).view(np.uint32)
    further = _room.bits[: bits.size]
    np.bitwise_and(bits, np.uint32(0xFFFF), out=further)
    np.add(further, np.uint32(0xFFFF), out=further)
    np.bitwise_or(bits, further, out=bits)
    np.right_shift(bits, np.uint32(16), out=bits)
    halves = _room.halves[: bits.size]
    np.copyto(halves, bits, casting="unsafe")
    return halves


def _store_halves(numbers: Halves, dtype: str, target: Bytes) -> None:
    if dtype == "bfloat16":
        target[:] = numbers.view(np.uint8)
        return
    bits = _room.floats[: numbers.size].view(np.uint32)
    np.copyto(bits, numbers)
    np.left_shift(bits, np.uint32(16), out=bits)
    _store_floats(bits.view(np.float32), dtype, target)


def _own(raw: Bytes, room: NDArray[_Number]) -> NDArray[_Number]:
    """The bytes as numbers of the room's dtype, copied to its start."""
    numbers = room[: raw.size // room.itemsize]
    numbers.view(np.uint8)[:] = raw
    return numbers


def _bfloat16(number: float) -> np.uint16:
    return np.uint16(np.float32(number).view(np.uint32) >> np.uint32(16))


class _Room(threading.local):
    """Working memory of a thread, touched once: a first touch costs more than the rounding."""

    def __init__(self) -> None:
        self.floats: Floats = np.zeros(CHUNK, np.float32)
        self.bits: Bits = np.zeros(CHUNK, np.uint32)
        self.halves: Halves = np.zeros(CHUNK, np.uint16)
        self.spare: Halves = np.zeros(CHUNK, np.uint16)
        self.codes: Bytes = np.zeros(CHUNK, np.uint8)
        self.indices: NDArray[np.intp] = np.zeros(CHUNK, np.intp)


_room = _Room()
_E4M3_CODES = _e4m3_codes()
_E4M3_NUMBERS = _e4m3_numbers()
