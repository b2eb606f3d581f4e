"""The stored form of an object: a fixed header, then the payload.

    offset  size  field
         0     4  magic "TRPR"
         4     1  version, 2
         5     1  kind: 0 kv, 1 state
         6     2  rank
         8     8  stored payload bytes
        16    16  fingerprint id
        32    32  page hash
        64    16  xxh3-128 of bytes 0..64, bytes 80..128 and the stored payload
        80     2  part
        82     1  encoding of the payload, see `state_store/encodings.py`; 0 as on the device
        83     1  cipher: 0 none, 1 AES-256-GCM, see `state_store/cipher.py`
        84     4  zero
        88     8  payload bytes on the device
        96    12  nonce
       108     4  key id
       112    16  authentication tag

Little endian. The header names what the object is, so one that lies under another's key is
caught like one with a flipped bit. xxh3 guards against accidents; against someone who can write
to the store, only the cipher does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from state_store.errors import CorruptObject, FingerprintMismatch
from state_store.layout import KINDS, ObjectNames, ObjectRef

HEADER_BYTES = 128
RAW = 0
_NAMED = struct.Struct("<4sBBHQ16s32s")
_FORM = struct.Struct("<HBB4sQ")
_MAGIC, _VERSION = b"TRPR", 2
_SUM = slice(64, 80)
_FORM_AT, _SECRETS_AT = 80, 96


@dataclass(frozen=True)
class Frame:
    """Where an object is in memory: the two need not lie together.

    header:  uint8[HEADER_BYTES], writable
    payload: uint8[n], writable; room for the payload as it is on the device
    """

    header: memoryview
    payload: memoryview

    def stored(self, payload_bytes: int | None = None) -> tuple[memoryview, memoryview]:
        """The pieces of the stored value, whose payload may be shorter than its room."""
        return self.header, self.payload[:payload_bytes]


@dataclass(frozen=True)
class Form:
    """How an object's payload is stored."""

    stored_bytes: int
    encoding: int
    cipher: int
    decoded_bytes: int


def seal(
    frame: Frame,
    *,
    names: ObjectNames,
    ref: ObjectRef,
    stored_bytes: int | None = None,
    encoding: int = RAW,
    encrypt: Callable[[memoryview, memoryview], None] | None = None,
) -> None:
    """Write the header over the payload that is in place.

    stored_bytes: of the payload as encoded; all of it if None
    encrypt:      turns the stored payload into ciphertext in place and fills in the header's
                  cipher, nonce, key id and tag
    """
    payload = frame.payload[:stored_bytes]
    frame.header[:] = bytes(HEADER_BYTES)
    _NAMED.pack_into(frame.header, 0, *_named(len(payload), names, ref))
    _FORM.pack_into(frame.header, _FORM_AT, ref.part, encoding, 0, bytes(4), len(frame.payload))
    if encrypt is not None:
        encrypt(frame.header, payload)
    frame.header[_SUM] = _checksum(frame.header, payload)


def form_of_sealed(frame: Frame, *, names: ObjectNames, ref: ObjectRef) -> Form | None:
    """How the payload in a frame is stored, if `seal` was the last to change header or payload;
    None for a frame that holds a payload as on the device, or anything else."""
    found = _NAMED.unpack_from(frame.header)
    stored_bytes = found[4]
    if found != _named(stored_bytes, names, ref):  # the payload is not even looked at
        return None
    try:
        return check(frame, HEADER_BYTES + stored_bytes, names=names, ref=ref)
    except CorruptObject:
        return None


def check(frame: Frame, size: int, *, names: ObjectNames, ref: ObjectRef) -> Form:
    """Verify that the value of `size` bytes in `frame` is whole and is the named object.

    Raises FingerprintMismatch if it belongs to another model or format, else CorruptObject.
    """
    stored_bytes = size - HEADER_BYTES
    if not 0 <= stored_bytes <= len(frame.payload):
        raise CorruptObject(
            f"{ref.kind} {ref.tag}: {size} bytes where at most "
            f"{HEADER_BYTES + len(frame.payload)} belong; it is not loaded."
        )
    stored = frame.payload[:stored_bytes]
    return check_value(frame.header, stored, names=names, ref=ref, decoded_bytes=len(frame.payload))


def check_value(
    header: memoryview,
    payload: memoryview,
    *,
    names: ObjectNames,
    ref: ObjectRef,
    decoded_bytes: int | None,
) -> Form:
    """Like `check`, for a value that nobody is about to decode.

    payload:       as it is stored
    decoded_bytes: what it should be on the device; None for whatever the header says
    """
    if len(header) != HEADER_BYTES or header[_SUM] != _checksum(header, payload):
        raise CorruptObject(f"{ref.kind} {ref.tag}: checksum does not match; it is not loaded.")
    found, expected = _NAMED.unpack_from(header), _named(len(payload), names, ref)
    if found[5] != expected[5]:
        raise FingerprintMismatch(
            f"{ref.kind} {ref.tag} has fingerprint {found[5].hex()}, wanted {expected[5].hex()}."
        )
    part, encoding, cipher, padding, decoded = _FORM.unpack_from(header, _FORM_AT)
    whole = decoded_bytes in (None, decoded) and (encoding != RAW or decoded == len(payload))
    plain = cipher != 0 or not any(header[_SECRETS_AT:])
    if found != expected or part != ref.part or any(padding) or not whole or not plain:
        raise CorruptObject(
            f"{ref.kind} {ref.tag}: the object under its key is another one; it is not loaded."
        )
    return Form(len(payload), encoding, cipher, decoded)


def _named(
    payload_bytes: int, names: ObjectNames, ref: ObjectRef
) -> tuple[bytes, int, int, int, int, bytes, bytes]:
    return (
        _MAGIC,
        _VERSION,
        KINDS.index(ref.kind),
        names.rank,
        payload_bytes,
        bytes.fromhex(names.fingerprint_id),
        bytes.fromhex(ref.page_hash),
    )


def _checksum(header: memoryview, payload: memoryview) -> bytes:
    state = xxhash.xxh3_128(header[:64])
    state.update(header[80:])
    state.update(payload)
    return state.digest()
