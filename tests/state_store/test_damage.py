"""Whatever is done to a stored object or record, a load says so and gives out nothing else."""

from __future__ import annotations

import logging

import pytest
from writer import PAYLOAD, RANKS, frame_of

from state_store.codec import HEADER_BYTES, Frame
from state_store.errors import CorruptObject, NotFound, StoreError
from state_store.layout import LineageKeys, ObjectRef, lineage_of
from state_store.payloads import Outcome, Payloads

TURNS = ([1, 2, 3, 4, 5], [6, 7, 8])  # two pages, and a state at the end of each turn


@pytest.fixture
async def session(writer):
    return await writer.session(*TURNS)


async def objects_of(writer, session) -> list[tuple[int, ObjectRef]]:
    """(rank, name) of everything that the session holds."""
    history = await writer.store.ancestors(session.head)
    return [(r, ref) for snapshot in history for ref in snapshot.objects for r in range(RANKS)]


def load(writer, rank, ref) -> tuple[Outcome, bytes]:
    frame = Frame(memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(PAYLOAD[ref.kind])))
    (outcome,) = Payloads(writer.client, writer.names()[rank]).read([(ref, frame)])
    return outcome, bytes(frame.payload)


def flipped(value: bytes, at: int) -> bytes:
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


async def test_every_object_that_is_deleted_is_missing_and_reported(writer, session, raw):
    for rank, ref in await objects_of(writer, session):
        key = writer.names()[rank].key(ref)
        value = raw.getdel(key)
        assert load(writer, rank, ref)[0] is Outcome.MISSING
        assert f"{key.decode()}: missing" in await writer.problems()
        raw.set(key, value)
        assert load(writer, rank, ref) == (Outcome.OK, value[HEADER_BYTES:])


async def test_every_byte_of_every_object_is_guarded(writer, session, raw, caplog):
    caplog.set_level(logging.CRITICAL)
    for rank, ref in await objects_of(writer, session):
        key = writer.names()[rank].key(ref)
        value = raw.get(key)
        for at in range(len(value)):
            raw.set(key, flipped(value, at))
            assert load(writer, rank, ref)[0] is Outcome.CORRUPT
        raw.set(key, value)
    assert await writer.problems() == []


async def test_every_object_that_is_cut_or_grown_or_another_is_refused_and_reported(
    writer, session, raw, caplog
):
    caplog.set_level(logging.CRITICAL)
    objects = await objects_of(writer, session)
    values = {one: raw.get(writer.names()[one[0]].key(one[1])) for one in objects}
    for (rank, ref), value in values.items():
        key = writer.names()[rank].key(ref)
        damaged = [value[:size] for size in (0, 1, HEADER_BYTES - 1, HEADER_BYTES, len(value) - 1)]
        damaged += [value + b"\0", *(other for other in values.values() if other != value)]
        for one in damaged:
            raw.set(key, one)
            assert load(writer, rank, ref)[0] is Outcome.CORRUPT
            assert any(problem.startswith(key.decode()) for problem in await writer.problems())
        raw.set(key, value)


async def test_a_whole_object_with_another_payload_is_whole(writer, session, raw):
    """What the checksum is for, and what it is not: against forgers there is the cipher."""
    rank, ref = (await objects_of(writer, session))[0]
    forged = frame_of(writer.names()[rank], ref.kind, ref.page_hash, bytes(PAYLOAD[ref.kind]))
    raw.set(writer.names()[rank].key(ref), forged)
    assert load(writer, rank, ref) == (Outcome.OK, bytes(PAYLOAD[ref.kind]))


async def test_no_damage_to_a_snapshots_record_gives_out_other_tokens(writer, session, raw, prefix):
    key = LineageKeys(prefix, lineage_of(session.id)).snapshot(session.head)
    value = raw.hget(key, "body")
    refused = 0
    for at in range(len(value)):
        raw.hset(key, "body", flipped(value, at))
        try:
            tokens = await writer.store.tokens(session.head)
        except StoreError:
            refused += 1
        else:  # what says when it was made, or by whom
            assert list(tokens) == [*TURNS[0], *TURNS[1]]
    assert refused > len(value) // 2
    for damaged in (b"", value[:1], value[:-1], value + b"\0"):
        raw.hset(key, "body", damaged)
        with pytest.raises(CorruptObject):
            await writer.store.tokens(session.head)


async def test_every_byte_of_the_token_log_is_guarded(writer, session, raw, prefix):
    keys = LineageKeys(prefix, lineage_of(session.id))
    for snapshot in await writer.store.ancestors(session.head):
        value = raw.get(keys.tokens(snapshot.id))
        for damaged in [
            *(flipped(value, at) for at in range(len(value))),
            *(value[:size] for size in range(len(value))),
            value + bytes(4),
        ]:
            raw.set(keys.tokens(snapshot.id), damaged)
            with pytest.raises(CorruptObject, match=snapshot.id):
                await writer.store.tokens(session.head)
        raw.set(keys.tokens(snapshot.id), value)
    assert await writer.history(session.id) == [*TURNS[0], *TURNS[1]]


@pytest.mark.parametrize("field", ["body", "labels"])
async def test_a_damaged_session_record_is_refused(writer, session, raw, prefix, field):
    await writer.store.set_labels(session.id, {"a": "b"})
    key = LineageKeys(prefix, lineage_of(session.id)).session(session.id)
    value = raw.hget(key, field)
    for damaged in (b"", b"\x02" + value[1:], value[:-1], value + b"\0", b"\x01\xc0"):
        raw.hset(key, field, damaged)
        for call in (writer.store.session(session.id), writer.store.tree(session.id)):
            with pytest.raises(CorruptObject):
                await call


async def test_a_history_with_a_hole_is_refused(writer, session, raw, prefix):
    keys = LineageKeys(prefix, lineage_of(session.id))
    first = (await writer.store.ancestors(session.head))[0].id
    raw.delete(keys.snapshot(first))
    for call in (
        writer.store.ancestors(session.head),
        writer.store.tokens(session.head),
        writer.store.branch_at(session.id, tokens=0),
        writer.store.diff(session.id, (await writer.session([1])).id),
        writer.store.tree(session.id),
    ):
        with pytest.raises(NotFound, match=first):
            await call
