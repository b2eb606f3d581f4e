"""AES-256-GCM over stored objects and over the control values that hold a transcript.

Objects are encrypted in place: OpenSSL takes one buffer as source and target if they are exactly
the same, so that a payload is passed over once, nothing is allocated for it, and the interpreter
lock is free meanwhile. What a tag covers of an object is its payload and, as associated data,
every header field that says what the object is and how it is stored (`state_store/codec.py`): a
ciphertext that is moved to another name, rank or part, or relabelled, fails like a flipped bit.

Nonces are 96 random bits. An object's key encrypts its copies on all ranks, and again what
racing or repeating writers make of them; a lineage's key encrypts its token log and meta, that of
a note or a list its values. Among q
encryptions under one key, two share a nonce with a probability below q² / 2^97: 2^-57 after a
million of them, 2^-33 at NIST's limit of 2^32 (SP 800-38D, section 8.3). A part is far below the
64 GiB that one nonce may encrypt.
"""

from __future__ import annotations

import os
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from state_store.errors import CorruptObject, InvalidKey, VaultLocked

CLEAR, AES_GCM = 0, 1
"""Values of a header's cipher field."""

KEY_BYTES = 32
KEY_ID_BYTES = 4
KEY_ID = slice(108, 112)
"""Where a header has its key id: with the seed's first bytes it says which seed it needs."""

_CIPHER = 83
_NONCE, _TAG = slice(96, 108), slice(112, 128)
_NAMED, _FORM = slice(0, 64), slice(80, 96)
_NONCE_BYTES, _TAG_BYTES = 12, 16
_VALUE_VERSION = b"\x01"

SEALED_BYTES = len(_VALUE_VERSION) + _NONCE_BYTES + _TAG_BYTES
"""That `seal_value` adds to a value."""


class Secret:
    """A key of 256 bits, which no repr, log line, exception or pickle shows.

    Python cannot wipe it from memory: whoever can read a process's memory has its keys.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        """Raises InvalidKey for anything but 32 bytes."""
        if len(secret) != KEY_BYTES:
            raise InvalidKey(f"a key has {len(secret)} bytes, not {KEY_BYTES}.")
        self._secret = bytes(secret)

    def reveal(self) -> bytes:
        return self._secret

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not to be copied out of the process.")


class ObjectKey(Secret):
    """Encrypts one object, on all ranks. `id` (4 bytes) tells the seeds it may have had apart."""

    __slots__ = ("id",)

    def __init__(self, secret: bytes, key_id: bytes) -> None:
        super().__init__(secret)
        self.id = key_id


class LineageKey(Secret):
    """Encrypts control values of one lineage: token log and meta."""

    __slots__ = ()


class ValueKey(Secret):
    """Encrypts the values in one place that is its tenant's and no lineage's: a note, a list."""

    __slots__ = ()


def encrypt_frame(header: memoryview, payload: memoryview, key: ObjectKey) -> None:
    """Turn a payload into ciphertext where it is and fill in the header's cipher fields.

    header:  uint8[128] with all other fields but the checksum, which is to cover the ciphertext
    payload: uint8[stored bytes], contiguous

    The plaintext is gone afterwards: to encrypt again, fill the payload again.
    """
    header[_CIPHER] = AES_GCM
    header[_NONCE] = nonce = os.urandom(_NONCE_BYTES)
    header[KEY_ID] = key.id
    header[_TAG] = encrypt_in_place(payload, key, nonce, _associated(header))


def decrypt_frame(header: memoryview, payload: memoryview, key: ObjectKey | None) -> None:
    """Turn the ciphertext of a frame that `codec.check` let pass into plaintext where it is.

    key: None for a tenant who stores in the clear, and then this only makes sure of that

    Raises CorruptObject for a tag that does not fit, another key's ciphertext, or plaintext
    where ciphertext belongs; VaultLocked for ciphertext without a key. After a tag that does not
    fit, the payload is zero: what it decrypts to may be an attacker's choice.
    """
    cipher = header[_CIPHER]
    if key is None:
        if cipher != CLEAR:
            raise VaultLocked(
                f"{_name(header)} is encrypted and its reader has no key; it is not loaded. Give "
                "this process the master key of the store."
            )
        return
    if cipher != AES_GCM:
        raise CorruptObject(
            f"{_name(header)} has cipher {cipher}, but its tenant's objects are encrypted with "
            f"cipher {AES_GCM}; it is not loaded."
        )
    if header[KEY_ID] != key.id:
        raise CorruptObject(
            f"{_name(header)} was encrypted under a key that is no longer in the store; nobody "
            "can read it, and it is not loaded."
        )
    nonce, tag = bytes(header[_NONCE]), bytes(header[_TAG])
    try:
        decrypt_in_place(payload, key, nonce, tag, _associated(header))
    except InvalidTag:
        raise CorruptObject(
            f"{_name(header)}: the authentication tag does not match; it is not loaded."
        ) from None


def seal_value(data: bytes, key: LineageKey | ValueKey, aad: bytes) -> bytes:
    """Ciphertext of one control value, 29 bytes longer: version, nonce, ciphertext, tag.

    aad: says where the value belongs (its key in the store); it opens only there
    """
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(key.reveal()).encrypt(nonce, data, _VALUE_VERSION + aad)
    return _VALUE_VERSION + nonce + sealed


def open_value(sealed: bytes, key: LineageKey | ValueKey, aad: bytes) -> bytes:
    """What `seal_value` made of. Raises CorruptObject for anything else."""
    if len(sealed) < SEALED_BYTES or sealed[:1] != _VALUE_VERSION:
        raise CorruptObject(
            f"a control value of {len(sealed)} bytes is not an encrypted one; it is not used."
        )
    nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return AESGCM(key.reveal()).decrypt(nonce, ciphertext, _VALUE_VERSION + aad)
    except InvalidTag:
        raise CorruptObject(
            "the authentication tag of a control value does not match; it is not used."
        ) from None


def encrypt_in_place(data: memoryview, key: Secret, nonce: bytes, aad: bytes) -> bytes:
    """Turn `data` (uint8[n], contiguous, writable) into ciphertext; its tag, 16 bytes."""
    encryptor = Cipher(algorithms.AES(key.reveal()), modes.GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(aad)
    encryptor.update_into(data, data)
    encryptor.finalize()
    return encryptor.tag


def decrypt_in_place(data: memoryview, key: Secret, nonce: bytes, tag: bytes, aad: bytes) -> None:
    """Turn `data` (uint8[n], contiguous, writable) into plaintext, or into zeros and raise
    InvalidTag."""
    decryptor = Cipher(algorithms.AES(key.reveal()), modes.GCM(nonce, tag)).decryptor()
    decryptor.authenticate_additional_data(aad)
    decryptor.update_into(data, data)
    try:
        decryptor.finalize()
    except InvalidTag:
        data[:] = bytes(len(data))
        raise


def _associated(header: memoryview) -> bytes:
    return b"".join((header[_NAMED], header[_FORM], header[KEY_ID]))


def _name(header: memoryview) -> str:
    return f"object {header[32:64].hex()}.{int.from_bytes(header[80:82], 'little')}"
