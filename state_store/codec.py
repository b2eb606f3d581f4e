"""The stored form of an object: a fixed header, then the payload bytes as they are on the device.

    offset  size  field
         0     4  magic "TRPR"
         4     1  version, 1
         5     1  kind: 0 kv, 1 state
         6     2  rank
         8     8  payload bytes
        16    16  fingerprint id
        32    32  page hash
        64    16  xxh3-128 of bytes 0..64 and the payload
        80    48  zero, so that the payload is aligned for vector copies

Little endian. The header names what the object is, so one that lies under another's key is
caught like one with a flipped bit. xxh3 guards against accidents, not against an attacker who
can write to the store.
"""

from __future__ import annotations

import struct

import xxhash

from state_store.errors import CorruptObject, FingerprintMismatch
from state_store.layout import KINDS, Kind, ObjectNames

HEADER_BYTES = 128
_NAMED = struct.Struct("<4sBBHQ16s32s")
_MAGIC, _VERSION = b"TRPR", 1
_SUM = slice(64, 80)
_PADDING = slice(80, HEADER_BYTES)


def seal(frame: memoryview, *, names: ObjectNames, kind: Kind, page_hash: str) -> None:
    """Write the header of `frame` (uint8[HEADER_BYTES + payload], writable) over its payload."""
    frame[:HEADER_BYTES] = bytes(HEADER_BYTES)
    _NAMED.pack_into(frame, 0, *_fields(frame, names, kind, page_hash))
    frame[_SUM] = _checksum(frame)


def check(frame: memoryview, *, names: ObjectNames, kind: Kind, page_hash: str) -> None:
    """Verify that `frame` is whole and is the named object.

    Raises FingerprintMismatch if it belongs to another model or format, else CorruptObject.
    """
    if len(frame) < HEADER_BYTES:
        raise CorruptObject(f"{kind} {page_hash}: {len(frame)} bytes, shorter than a header.")
    found, expected = _NAMED.unpack_from(frame), _fields(frame, names, kind, page_hash)
    if frame[_SUM] != _checksum(frame) or any(frame[_PADDING]):
        raise CorruptObject(f"{kind} {page_hash}: checksum does not match; it is not loaded.")
    if found[5] != expected[5]:
        raise FingerprintMismatch(
            f"{kind} {page_hash} has fingerprint {found[5].hex()}, wanted {expected[5].hex()}."
        )
    if found != expected:
        raise CorruptObject(f"{kind} {page_hash}: the object under its key is another one.")


def _fields(
    frame: memoryview, names: ObjectNames, kind: Kind, page_hash: str
) -> tuple[bytes, int, int, int, int, bytes, bytes]:
    return (
        _MAGIC,
        _VERSION,
        KINDS.index(kind),
        names.rank,
        len(frame) - HEADER_BYTES,
        bytes.fromhex(names.fingerprint_id),
        bytes.fromhex(page_hash),
    )


def _checksum(frame: memoryview) -> bytes:
    state = xxhash.xxh3_128(frame[:64])
    state.update(frame[HEADER_BYTES:])
    return state.digest()
