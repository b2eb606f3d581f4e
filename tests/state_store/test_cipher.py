"""Encryption: as the standard says, in place, and nothing tampered with comes out."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from state_store.cipher import (
    LineageKey,
    ObjectKey,
    Secret,
    decrypt_frame,
    decrypt_in_place,
    encrypt_frame,
    encrypt_in_place,
    open_value,
    seal_value,
)
from state_store.codec import HEADER_BYTES, Frame, check, seal
from state_store.errors import CorruptObject, VaultLocked
from state_store.layout import ObjectNames, ObjectRef

NAMES = ObjectNames("p", "ab" * 16, 1)
REF = ObjectRef("kv", "cd" * 32, 2)
KEY = ObjectKey(bytes(range(32)), b"seed")
LINEAGE_KEY = LineageKey(bytes(range(32, 64)))
PLAINTEXT = bytes(range(256)) * 3

# The Galois/Counter Mode of Operation (McGrew, Viega; submitted to NIST), test cases 13, 14, 16:
# key, nonce, plaintext, associated data, ciphertext, tag.
GCM_CASES = [
    ("00" * 32, "00" * 12, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    (
        "00" * 32,
        "00" * 12,
        "00" * 16,
        "",
        "cea7403d4d606b6e074ec5d3baf39d18",
        "d0d1c8a799996bf0265b98b5d48ab919",
    ),
    (
        "feffe9928665731c6d6a8f9467308308" * 2,
        "cafebabefacedbaddecaf888",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
]


def sealed_frame(payload: bytes = PLAINTEXT, *, ref=REF, names=NAMES, key=KEY) -> Frame:
    frame = Frame(memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(payload)))
    seal(frame, names=names, ref=ref, encrypt=key and partial(encrypt_frame, key=key))
    return frame


def opened(frame: Frame, *, key: ObjectKey | None = KEY) -> bytes:
    decrypt_frame(frame.header, frame.payload, key)
    return bytes(frame.payload)


@pytest.mark.parametrize("case", GCM_CASES)
def test_encryption_in_place_matches_the_published_vectors(case):
    secret, nonce, plaintext, aad, ciphertext, tag = (bytes.fromhex(field) for field in case)
    key, data = Secret(secret), memoryview(bytearray(plaintext))
    assert encrypt_in_place(data, key, nonce, aad) == tag
    assert data == ciphertext
    decrypt_in_place(data, key, nonce, tag, aad)
    assert data == plaintext


@given(payload=st.binary(max_size=5000), aad=st.binary(max_size=40))
@settings(deadline=None, database=None)
def test_encryption_in_place_is_what_one_call_with_two_buffers_makes(payload, aad):
    data, nonce = memoryview(bytearray(payload)), b"nonce nonce "
    tag = encrypt_in_place(data, KEY, nonce, aad)
    assert bytes(data) + tag == AESGCM(KEY.reveal()).encrypt(nonce, payload, aad)


def test_a_whole_part_is_encrypted_in_the_middle_of_a_larger_buffer():
    buffer = bytearray(b"\xaa" * ((4 << 20) + 200))
    inside = memoryview(buffer)[100:-100]
    frame = Frame(memoryview(bytearray(HEADER_BYTES)), inside)
    seal(frame, names=NAMES, ref=REF, encrypt=partial(encrypt_frame, key=KEY))
    assert buffer[:100] == buffer[-100:] == b"\xaa" * 100
    nonce = bytes(frame.header[96:108])
    aad = bytes(frame.header[:64]) + bytes(frame.header[80:96]) + b"seed"
    expected = AESGCM(KEY.reveal()).encrypt(nonce, b"\xaa" * (4 << 20), aad)
    assert bytes(inside) + bytes(frame.header[112:]) == expected
    assert opened(frame) == b"\xaa" * (4 << 20)


@given(payload=st.binary(max_size=300))
@settings(deadline=None, database=None)
def test_an_encrypted_frame_checks_and_opens_to_its_payload(payload):
    frame = sealed_frame(payload)
    assert len(payload) < 16 or payload not in bytes(frame.payload)
    form = check(frame, HEADER_BYTES + len(payload), names=NAMES, ref=REF)
    assert form.cipher == 1
    assert opened(frame) == payload


def test_the_same_payload_never_looks_the_same():
    looks = {bytes(sealed_frame().payload) for _ in range(100)}
    nonces = {bytes(sealed_frame().header[96:108]) for _ in range(100)}
    assert len(looks) == len(nonces) == 100


TAMPERED = {
    "magic": range(0, 4),
    "version": range(4, 5),
    "kind": range(5, 6),
    "rank": range(6, 8),
    "stored bytes": range(8, 16),
    "fingerprint": range(16, 32),
    "page hash": range(32, 64),
    "part": range(80, 82),
    "encoding": range(82, 83),
    "cipher": range(83, 84),
    "padding": range(84, 88),
    "decoded bytes": range(88, 96),
    "nonce": range(96, 108),
    "key id": range(108, 112),
    "tag": range(112, 128),
}


def test_the_tampered_fields_are_all_but_the_checksum():
    covered = {position for field in TAMPERED.values() for position in field}
    assert covered == set(range(HEADER_BYTES)) - set(range(64, 80))


@pytest.mark.parametrize("field", TAMPERED)
def test_tampering_with_a_header_field_is_noticed_without_the_checksum(field):
    """Who can write to the store can also write a checksum that fits."""
    for position in TAMPERED[field]:
        for bit in range(8):
            frame = sealed_frame()
            frame.header[position] ^= 1 << bit
            with pytest.raises(CorruptObject):
                opened(frame)
            assert PLAINTEXT[:16] not in bytes(frame.payload)


@given(position=st.integers(0, len(PLAINTEXT) - 1), bit=st.integers(0, 7))
@settings(deadline=None, database=None)
def test_a_tampered_payload_is_noticed_and_wiped(position, bit):
    frame = sealed_frame()
    frame.payload[position] ^= 1 << bit
    with pytest.raises(CorruptObject, match="authentication tag"):
        opened(frame)
    assert not any(frame.payload)


def test_a_shortened_payload_is_noticed():
    frame = sealed_frame()
    with pytest.raises(CorruptObject):
        decrypt_frame(frame.header, frame.payload[:-1], KEY)


@pytest.mark.parametrize(
    ("names", "ref"),
    [
        (NAMES, REF._replace(page_hash="ce" * 32)),
        (NAMES, REF._replace(part=3)),
        (NAMES, REF._replace(kind="state")),
        (ObjectNames("p", "ab" * 16, 0), REF),
        (ObjectNames("p", "ac" * 16, 1), REF),
    ],
)
def test_a_ciphertext_relabelled_as_another_object_is_refused(names, ref):
    frame, other = sealed_frame(), sealed_frame(names=names, ref=ref)
    secrets = slice(96, 128)
    other.header[secrets] = frame.header[secrets]
    other.payload[:] = frame.payload
    with pytest.raises(CorruptObject, match="authentication tag"):
        opened(other)


def test_another_key_opens_nothing():
    with pytest.raises(CorruptObject, match="authentication tag"):
        opened(sealed_frame(), key=ObjectKey(bytes(32), KEY.id))


def test_a_frame_under_a_replaced_seed_is_told_apart_and_left_alone():
    frame = sealed_frame()
    before = bytes(frame.payload)
    with pytest.raises(CorruptObject, match="no longer in the store"):
        opened(frame, key=ObjectKey(KEY.reveal(), b"late"))
    assert bytes(frame.payload) == before


def test_plaintext_in_place_of_an_encrypted_object_is_refused():
    frame = sealed_frame(key=None)
    check(frame, HEADER_BYTES + len(PLAINTEXT), names=NAMES, ref=REF)
    with pytest.raises(CorruptObject, match="cipher 0"):
        opened(frame)


def test_ciphertext_without_a_key_is_locked():
    frame = sealed_frame()
    with pytest.raises(VaultLocked, match="master key"):
        opened(frame, key=None)
    assert PLAINTEXT[:16] not in bytes(frame.payload)


def test_a_tenant_in_the_clear_reads_as_before():
    assert opened(sealed_frame(key=None), key=None) == PLAINTEXT


def test_errors_name_the_object():
    frame = sealed_frame()
    frame.payload[0] ^= 1
    with pytest.raises(CorruptObject, match=f"object {REF.page_hash}.2"):
        opened(frame)


def test_threads_encrypt_their_own_frames_at_once():
    outcomes: list[bool] = []

    def work(number: int) -> None:
        payload = bytes([number]) * (1 << 20)
        outcomes.extend(opened(sealed_frame(payload)) == payload for _ in range(5))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 20


@given(data=st.binary(max_size=2000), aad=st.binary(max_size=60))
@settings(deadline=None, database=None)
def test_a_value_opens_to_itself_at_its_place(data, aad):
    sealed = seal_value(data, LINEAGE_KEY, aad)
    assert len(sealed) == len(data) + 29
    assert len(data) < 16 or data not in sealed
    assert open_value(sealed, LINEAGE_KEY, aad) == data


@given(data=st.data())
@settings(deadline=None, database=None)
def test_a_changed_value_opens_to_nothing(data):
    sealed = seal_value(data.draw(st.binary(max_size=100)), LINEAGE_KEY, b"place")
    position = data.draw(st.integers(0, len(sealed) - 1))
    damaged = bytearray(sealed)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptObject):
        open_value(bytes(damaged), LINEAGE_KEY, b"place")
    with pytest.raises(CorruptObject):
        open_value(sealed[:position], LINEAGE_KEY, b"place")


def test_a_value_opens_nowhere_else_and_with_no_other_key():
    sealed = seal_value(b"hello", LINEAGE_KEY, b"place")
    with pytest.raises(CorruptObject):
        open_value(sealed, LINEAGE_KEY, b"another place")
    with pytest.raises(CorruptObject):
        open_value(sealed, LineageKey(bytes(32)), b"place")


def test_the_same_value_never_looks_the_same():
    assert len({seal_value(b"hello", LINEAGE_KEY, b"place") for _ in range(100)}) == 100


def test_in_place_decryption_that_fails_leaves_zeros():
    data = memoryview(bytearray(PLAINTEXT))
    with pytest.raises(InvalidTag):
        decrypt_in_place(data, KEY, bytes(12), bytes(16), b"")
    assert not any(data)
