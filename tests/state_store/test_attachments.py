"""What is kept with a session is its own, and goes with it."""

import asyncio

import pytest
from sealing import TURN, everything

from state_store.errors import CorruptObject, NotFound, VaultLocked
from state_store.layout import LineageKeys, lineage_of


def place(prefix, session):
    return LineageKeys(prefix, lineage_of(session.id)).attachments(session.id)


async def test_a_value_is_kept_replaced_and_deleted(writer):
    attachments = writer.store.attachments
    session = await writer.session([1, 2, 3, 4])
    assert await attachments.get(session, "a") is None
    await attachments.put(session, "a", b"1", ttl=60)
    await attachments.put(session, "a", b"2", ttl=60)
    assert await attachments.get(session, "a") == b"2"
    assert await attachments.delete(session, "a")
    assert not await attachments.delete(session, "a")
    assert await attachments.get(session, "a") is None


async def test_it_goes_with_its_session_and_not_with_a_fork(writer, raw):
    attachments = writer.store.attachments
    session = await writer.session([1, 2, 3, 4])
    fork = await writer.store.fork(session.id)
    await attachments.put(session, "a", b"1", ttl=60)
    assert await attachments.get(fork, "a") is None
    await writer.store.delete_session(fork.id)
    assert await attachments.get(session, "a") == b"1"
    assert (await writer.store.check_integrity()).problems == []
    await writer.store.delete_session(session.id)
    assert not raw.exists(place(writer.prefix, session))
    with pytest.raises(NotFound):
        await attachments.put(session, "a", b"1", ttl=60)
    assert not raw.exists(place(writer.prefix, session))


async def test_it_goes_with_a_session_whose_record_is_lost(writer, raw):
    session = await writer.session([1, 2, 3, 4])
    await writer.store.attachments.put(session, "a", b"1", ttl=60)
    raw.delete(LineageKeys(writer.prefix, lineage_of(session.id)).session(session.id))
    await writer.store.delete_session(session.id)
    assert not raw.exists(place(writer.prefix, session))


async def test_all_of_a_session_live_as_long_as_the_last_one_is_to(writer, raw):
    attachments = writer.store.attachments
    session = await writer.session([1, 2, 3, 4])
    await attachments.put(session, "a", b"1", ttl=600)
    await attachments.put(session, "b", b"1", ttl=6)
    assert raw.pttl(place(writer.prefix, session)) > 60_000
    short = await writer.session([5, 6, 7, 8])
    await attachments.put(short, "a", b"1", ttl=0.05)
    await asyncio.sleep(0.1)
    assert await attachments.get(short, "a") is None


async def test_what_an_encrypted_tenant_keeps_is_sealed(author, locked, prefix, raw):
    attachments = author.store.attachments
    session = await author.session("ann", TURN)
    await attachments.put(session, "a", b"paid ann 100", ttl=60)
    assert await attachments.get(session, "a") == b"paid ann 100"
    with pytest.raises(VaultLocked):
        await locked.attachments.get(session, "a")
    assert not any(b"paid ann" in dump for dump in everything(raw, prefix).values())
    raw.hset(place(prefix, session), "b", raw.hget(place(prefix, session), "a"))
    with pytest.raises(CorruptObject):
        await attachments.get(session, "b")
    await author.store.delete_session(session.id)
    assert not raw.exists(place(prefix, session))
