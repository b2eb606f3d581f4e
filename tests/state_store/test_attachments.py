"""What is kept with a session is its own, and goes with it."""

import asyncio

import pytest
from sealing import TURN, everything
from writer import TENANT, Trips

from state_store.errors import CorruptObject, NotFound, QuotaExceeded, VaultLocked
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.quotas import Quota
from state_store.store import StateStore


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


async def attached(store):
    return (await store.usage_report(TENANT)).attached_bytes


async def test_its_bytes_are_counted_as_stored_with_its_name(writer):
    store, attachments = writer.store, writer.store.attachments
    session, other = await writer.session([1, 2, 3, 4]), await writer.session([5, 6, 7, 8])
    await attachments.put(session, "name", b"12345", ttl=60)
    assert await attached(store) == 9
    await attachments.put(session, "name", b"1", ttl=60)
    await attachments.put(other, "b", b"", ttl=60)
    assert await attached(store) == 5 + 1
    await attachments.delete(session, "name")
    assert await attached(store) == 1
    await store.delete_session(other.id)
    assert await attached(store) == 0


async def test_a_put_that_exceeds_the_quota_is_refused_and_changes_nothing(writer, raw):
    store, attachments = writer.store, writer.store.attachments
    session = await writer.session([])
    await store.set_quota(TENANT, Quota(bytes=20))
    await attachments.put(session, "a", b"x" * 15, ttl=60)
    with pytest.raises(QuotaExceeded, match="may have 20 bytes, has 16"):
        await attachments.put(session, "b", b"x" * 4, ttl=60)
    with pytest.raises(QuotaExceeded):
        await attachments.put(session, "a", b"x" * 20, ttl=60)
    assert await attachments.get(session, "a") == b"x" * 15
    assert await attachments.get(session, "b") is None
    await attachments.put(session, "a", b"x" * 19, ttl=60)
    await attachments.put(session, "a", b"y" * 19, ttl=60)  # in the place of the other
    assert not raw.exists(TenantKeys(writer.prefix, TENANT).reserved)


@pytest.mark.parametrize("how", ["deleted", "with its session", "expired"])
async def test_what_is_gone_is_room_again(writer, how):
    store, attachments = writer.store, writer.store.attachments
    session, other = await writer.session([]), await writer.session([])
    await attachments.put(session, "a", b"x" * 15, ttl=0.05 if how == "expired" else 60)
    await store.set_quota(TENANT, Quota(bytes=20))
    if how == "deleted":
        await attachments.delete(session, "a")
    elif how == "with its session":
        await store.delete_session(session.id)
    else:
        await asyncio.sleep(0.1)
    await attachments.put(other, "b", b"x" * 19, ttl=60)
    with pytest.raises(QuotaExceeded):
        await attachments.put(other, "c", b"", ttl=60)


async def test_a_quota_counts_what_was_kept_before_it(writer):
    session = await writer.session([])
    await writer.store.attachments.put(session, "a", b"x" * 15, ttl=60)
    await writer.store.set_quota(TENANT, Quota(bytes=20))
    with pytest.raises(QuotaExceeded):
        await writer.store.attachments.put(session, "b", b"x" * 9, ttl=60)


async def test_what_was_kept_before_it_was_counted_is_replaced_and_deleted_and_counts(writer, raw):
    store, attachments = writer.store, writer.store.attachments
    session, other = await writer.session([]), await writer.session([])
    for one in (session, other):
        raw.hset(place(writer.prefix, one), "a", b"x" * 1000)
        raw.expire(place(writer.prefix, one), 60)
    assert await attached(store) == 2 * 1001
    await attachments.put(session, "a", b"y" * 10, ttl=60)
    assert await attachments.get(session, "a") == b"y" * 10
    assert await attached(store) == 11 + 1001
    assert await attachments.delete(other, "a")
    assert await attachments.get(other, "a") is None
    assert await attached(store) == 11


def copies(raw, prefix):
    """Bytes that a quota is checked against, by lineage."""
    entries = raw.hgetall(TenantKeys(prefix, TENANT).usage)
    entries.pop(b"sum", None)  # of all
    return {one.decode(): int(entry.split(b":")[1]) for one, entry in entries.items()}


async def test_of_two_puts_at_the_same_time_both_are_counted(server, writer, raw, prefix):
    """Another one is made between any two round trips of the first."""
    await writer.store.set_quota(TENANT, Quota(bytes=10_000))
    at, met = 0, True
    while met:
        at += 1
        session = await writer.session([])

        async def other(session=session):
            await writer.store.attachments.put(session, "b", b"y" * 1000, ttl=60)

        async with await StateStore.connect(server.url, prefix=prefix) as first:
            trips = Trips(first)
            trips.between = (at, other)
            await first.attachments.put(session, "a", b"x" * 10, ttl=60)
            met = trips.between is None
        assert copies(raw, prefix)[lineage_of(session.id)] == 11 + (1001 if met else 0)
        await writer.store.delete_session(session.id)
    assert at > 3


async def test_a_tenant_has_one_count_for_each_lineage_and_it_follows_what_is_deleted(writer, raw):
    store, attachments = writer.store, writer.store.attachments
    await store.set_quota(TENANT, Quota(bytes=10_000))
    session = await writer.session([])
    fork = await store.fork(session.id)
    await attachments.put(session, "a", b"x" * 10, ttl=60)
    await attachments.put(fork, "a", b"x" * 20, ttl=60)
    lineage = lineage_of(session.id)
    assert copies(raw, writer.prefix) == {lineage: 11 + 21}
    await attachments.delete(session, "a")
    assert copies(raw, writer.prefix) == {lineage: 21}
    await store.delete_session(fork.id)
    assert copies(raw, writer.prefix) == {lineage: 0}
    assert await store.attachments.get(session, "a") is None


async def test_a_change_is_made_as_one_and_needs_room_for_what_it_adds(writer):
    store, attachments = writer.store, writer.store.attachments
    session = await writer.session([])
    await attachments.change(session, {"a": b"x" * 10, "b": b"x" * 20}, ttl=60)
    await store.set_quota(TENANT, Quota(bytes=20))  # less than there is already
    await attachments.change(session, {"a": b"y" * 31, "b": None}, ttl=60)
    assert await attachments.get(session, "a") == b"y" * 31
    assert await attachments.get(session, "b") is None
    assert await attached(store) == 32
    with pytest.raises(QuotaExceeded):
        await attachments.change(session, {"a": None, "b": b"z" * 32}, ttl=60)
    assert await attachments.get(session, "a") == b"y" * 31
    await store.delete_session(session.id)
    with pytest.raises(NotFound):
        await attachments.change(session, {"a": None}, ttl=60)


async def test_a_change_of_what_was_read_is_not_made_when_that_has_changed(writer):
    store, attachments = writer.store, writer.store.attachments
    session = await writer.session([])
    await store.set_quota(TENANT, Quota(bytes=100))
    await attachments.put(session, "a", b"1", ttl=60)
    seen = {"a": await attachments.read(session, "a"), "b": await attachments.read(session, "b")}
    assert (seen["a"].value, seen["b"]) == (b"1", None)
    for other in ({"a": b"2"}, {"a": None}, {"b": b"1"}):
        await attachments.change(session, other, ttl=60)
        before = await attached(store)
        for _ in range(3):  # and no room is taken for it
            made = await attachments.change(session, {"c": b"x" * 60}, ttl=60, seen=seen)
            assert not made
        assert await attached(store) == before
        assert await attachments.get(session, "c") is None
        await attachments.change(session, {"a": b"1", "b": None}, ttl=60)
    assert await attachments.change(session, {"a": None, "c": b"x" * 60}, ttl=60, seen=seen)
    assert await attachments.get(session, "a") is None
    assert await attachments.get(session, "c") == b"x" * 60
