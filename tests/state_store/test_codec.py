"""The stored form of an object: nothing but the object that its key names passes the check."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writer import frame_of

from state_store.codec import HEADER_BYTES, Frame, check
from state_store.errors import CorruptObject, FingerprintMismatch
from state_store.layout import ObjectNames, ObjectRef

NAMES = ObjectNames("p", "ab" * 16, 1)
PAGE_HASH = "cd" * 32


def verify(frame, *, names=NAMES, kind="kv", page_hash=PAGE_HASH):
    whole = memoryview(bytearray(frame))
    place = Frame(whole[:HEADER_BYTES], whole[HEADER_BYTES:])
    check(place, len(whole), names=names, ref=ObjectRef(kind, page_hash))


@given(payload=st.binary(max_size=300))
@settings(deadline=None, database=None)
def test_a_sealed_frame_passes_and_keeps_its_payload(payload):
    frame = frame_of(NAMES, "kv", PAGE_HASH, payload)
    verify(frame)
    assert frame[HEADER_BYTES:] == payload


@pytest.mark.parametrize("size", [0, 1, 300])
def test_a_flipped_byte_anywhere_in_the_frame_is_refused(size):
    frame = bytearray(frame_of(NAMES, "kv", PAGE_HASH, (bytes(range(256)) * 2)[:size]))
    for position in range(len(frame)):
        frame[position] ^= 0x40
        with pytest.raises(CorruptObject):
            verify(frame)
        frame[position] ^= 0x40
    verify(frame)


@given(st.data())
@settings(deadline=None, database=None)
def test_any_change_of_bytes_is_refused(data):
    sound = frame_of(NAMES, "state", PAGE_HASH, data.draw(st.binary(max_size=200)))
    position = data.draw(st.integers(0, len(sound) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=8))
    frame = sound[:position] + damage + sound[position + len(damage) :]
    if frame == sound:
        verify(frame, kind="state")
        return
    with pytest.raises(CorruptObject):
        verify(frame, kind="state")


@given(length=st.integers(0, HEADER_BYTES + 63))
@settings(deadline=None, database=None)
def test_a_frame_cut_short_is_refused(length):
    with pytest.raises(CorruptObject):
        verify(frame_of(NAMES, "kv", PAGE_HASH, b"x" * 64)[:length])


@pytest.mark.parametrize(
    "stored",
    [
        frame_of(NAMES, "kv", "ce" * 32, b"x"),
        frame_of(NAMES, "state", PAGE_HASH, b"x"),
        frame_of(ObjectNames("p", NAMES.fingerprint_id, 0), "kv", PAGE_HASH, b"x"),
    ],
    ids=["other page", "other kind", "other rank"],
)
def test_a_whole_object_under_the_key_of_another_is_refused(stored):
    with pytest.raises(CorruptObject, match="another one") as refused:
        verify(stored)
    assert not isinstance(refused.value, FingerprintMismatch)


def test_an_object_of_another_model_is_told_apart_from_a_corrupt_one():
    with pytest.raises(FingerprintMismatch, match="acac"):
        verify(frame_of(ObjectNames("p", "ac" * 16, 1), "kv", PAGE_HASH, b"x"))
