"""Notes: small values that expire."""

import asyncio
import contextlib

import pytest
from writer import TENANT

from state_store.errors import InvalidTenant, QuotaExceeded
from state_store.layout import TenantKeys
from state_store.quotas import Quota
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault


async def test_a_note_is_found_by_its_tenant_alone(writer):
    notes = writer.store.notes
    await notes.put("ann", "a", b"1", ttl=60)
    assert await notes.get("ann", ["b", "a"]) == [None, b"1"]
    assert await notes.get("bob", ["a"]) == [None]
    assert await notes.get("ann", []) == []
    await notes.delete("ann", "a")
    assert await notes.get("ann", ["a"]) == [None]


async def test_one_of_many_puts_a_new_note_and_the_others_see_it(writer):
    notes = writer.store.notes
    seen = await asyncio.gather(
        *(notes.put_new("ann", "a", b"%d" % number, ttl=60) for number in range(20))
    )
    (stored,) = await notes.get("ann", ["a"])
    assert seen.count(None) == 1
    assert seen[int(stored)] is None
    assert set(seen) == {None, stored}


@pytest.mark.parametrize("encrypted", [False, True])
async def test_of_many_who_have_read_the_same_one_replaces_it(server, prefix, encrypted):
    vault = Vault([MasterKey(bytes(range(32)))])
    async with await StateStore.connect(server.url, prefix=prefix, vault=vault) as store:
        await store.create_tenant("ann", encrypted=encrypted)
        await store.notes.put("ann", "a", b"first", ttl=60)

        def replace(number):
            return store.notes.put_instead("ann", "a", b"%d" % number, of=b"first", ttl=60)

        seen = await asyncio.gather(*map(replace, range(20)))
        (stored,) = await store.notes.get("ann", ["a"])
        assert seen.count(None) == 1
        assert seen[int(stored)] is None
        assert set(seen) == {None, stored}
        await store.notes.delete("ann", "a")
        assert await store.notes.put_instead("ann", "a", b"1", of=b"first", ttl=60) is None
        assert await store.notes.get("ann", ["a"]) == [b"1"]


async def test_a_note_expires(writer):
    notes = writer.store.notes
    await notes.put("ann", "a", b"1", ttl=0.05)
    await asyncio.sleep(0.1)
    assert await notes.get("ann", ["a"]) == [None]
    assert await notes.put_new("ann", "a", b"2", ttl=60) is None


async def test_a_note_of_no_tenant_is_refused(writer):
    with pytest.raises(InvalidTenant):
        await writer.store.notes.put("no such {name}", "a", b"1", ttl=60)


async def test_notes_count_for_the_quota_of_their_tenant(writer, raw, prefix):
    """Also those from before it; and only for as long as they are there."""
    store, keys = writer.store, TenantKeys(prefix, TENANT)
    session = await writer.session()
    await store.notes.put(TENANT, "old", b"x" * 97, ttl=60)
    assert not raw.exists(keys.usage)
    await store.set_quota(TENANT, Quota(bytes=1000))
    await store.session_notes.put(session, "turn", b"x" * 200, ttl=60)
    on_session = 200 + len(f"turn:{session.id}")
    await store.notes.put(TENANT, "new", b"x" * 297, ttl=60)
    assert (await store.usage_report(TENANT)).note_bytes == 400 + on_session
    for put in (
        store.notes.put(TENANT, "more", b"x" * 400, ttl=60),
        store.notes.put_new(TENANT, "more", b"x" * 400, ttl=60),
        store.notes.put(TENANT, "old", b"x" * 600, ttl=60),
        store.session_notes.put(session, "turn", b"x" * 700, ttl=60),
    ):
        with pytest.raises(QuotaExceeded, match="may have 1000 bytes"):
            await put
    assert await store.notes.get(TENANT, ["old", "more"]) == [b"x" * 97, None]
    assert await store.notes.put_new(TENANT, "old", b"x" * 900, ttl=60) == b"x" * 97  # put already
    await store.notes.put("other", "more", b"x" * 4000, ttl=60)
    await store.notes.put(TENANT, "new", b"x" * 17, ttl=60)
    assert (await store.usage_report(TENANT)).note_bytes == 120 + on_session
    assert await writer.problems() == []
    await store.notes.delete(TENANT, "old")
    await store.notes.delete(TENANT, "none")
    assert raw.hget(keys.usage, "notes") == b"0:%d:0" % (20 + on_session)
    await store.delete_session(session.id)
    assert raw.hget(keys.usage, "notes") == b"0:20:0"
    await store.notes.put(TENANT, "more", b"x" * 976, ttl=60)
    await store.notes.put(TENANT, "result", b"x" * 500, ttl=60, happened=True)
    with pytest.raises(QuotaExceeded):
        await writer.turn((await writer.session()).id, [1, 2, 3, 4])
    assert (await store.usage_report(TENANT)).note_bytes == 20 + 980 + 506
    assert await writer.problems() == []


async def test_notes_that_have_expired_count_no_more(writer, raw, prefix):
    store, keys = writer.store, TenantKeys(prefix, TENANT)
    await store.set_quota(TENANT, Quota(bytes=100))
    for name in ("a", "b"):
        await store.notes.put(TENANT, name, b"x" * 49, ttl=60)
    for name, at in raw.zrange(keys.notes, 0, -1, withscores=True):
        raw.zadd(keys.notes, {name: at - 60_000})
        raw.delete(keys.note(name.decode().partition(":")[2]))
    await store.notes.put(TENANT, "a", b"x" * 49, ttl=60)
    assert (await store.usage_report(TENANT)).note_bytes == 50
    await store.notes.put(TENANT, "b", b"x" * 49, ttl=60)
    for name, at in raw.zrange(keys.notes, 0, -1, withscores=True):
        raw.zadd(keys.notes, {name: at - 60_000})
    await store.recover(older_than=0)
    assert raw.hgetall(keys.usage) == {b"sum": b"0:0"}


async def test_notes_that_are_put_at_the_same_time_stay_within_the_quota_together(writer, raw):
    store = writer.store
    await store.set_quota(TENANT, Quota(bytes=500))

    async def put(number):
        with contextlib.suppress(QuotaExceeded):
            await store.notes.put(TENANT, f"{number:02}", b"x" * 98, ttl=60)

    await asyncio.gather(*(put(number) for number in range(20)))
    assert (await store.usage_report(TENANT)).note_bytes == 500
    assert await writer.problems() == []
