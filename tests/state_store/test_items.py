"""Items: lists that a tenant's clients keep."""

import asyncio

import pytest

from state_store.errors import InvalidTenant, QuotaExceeded
from state_store.layout import TenantKeys
from state_store.quotas import Quota


async def test_items_are_a_list_of_their_tenant_alone(writer):
    items = writer.store.items
    await items.add("ann", "talk", [b"1", b"2"], ttl=60)
    await items.add("ann", "talk", [b"3"], ttl=60)
    await items.add("ann", "talk", [], ttl=60)
    assert await items.last("ann", "talk") == [b"1", b"2", b"3"]
    assert [await items.last("ann", "talk", limit) for limit in (0, 2, 9)] == [
        [],
        [b"2", b"3"],
        [b"1", b"2", b"3"],
    ]
    assert await items.last("bob", "talk") == await items.last("ann", "other") == []


async def test_items_are_taken_from_the_end_each_once(writer):
    items = writer.store.items
    await items.add("ann", "talk", [b"%d" % number for number in range(20)], ttl=60)
    taken = await asyncio.gather(*(items.pop("ann", "talk") for _ in range(19)))
    assert set(taken) == {b"%d" % number for number in range(1, 20)}
    assert [await items.pop("ann", "talk") for _ in range(2)] == [b"0", None]


async def test_items_are_cleared_and_expire(writer):
    items = writer.store.items
    await items.add("ann", "talk", [b"1"], ttl=60)
    await items.clear("ann", "talk")
    assert await items.last("ann", "talk") == []
    await items.add("ann", "talk", [b"1"], ttl=0.05)
    await asyncio.sleep(0.1)
    assert await items.last("ann", "talk") == []


async def test_items_of_no_tenant_are_refused(writer):
    with pytest.raises(InvalidTenant):
        await writer.store.items.add("no such {name}", "a", [b"1"], ttl=60)


async def test_items_go_with_their_tenant(writer):
    store = writer.store
    await store.create_tenant("ann")
    await store.items.add("ann", "talk", [b"1"], ttl=60)
    await store.delete_tenant("ann")
    assert await store.items.last("ann", "talk") == []


async def test_a_change_whose_answer_is_lost_is_made_once(writer, monkeypatch):
    """A client that repeats a command repeats the very same one."""
    items, run = writer.store.items, writer.store._control.run

    async def twice(*call):
        await run(*call)
        return await run(*call)

    monkeypatch.setattr(writer.store._control, "run", twice)
    await items.add("ann", "talk", [b"1", b"2"], ttl=60)
    await items.add("ann", "talk", [b"3"], ttl=60)
    assert await items.pop("ann", "talk") == b"3"
    assert await items.last("ann", "talk") == [b"1", b"2"]


async def test_items_count_for_the_quota_of_their_tenant(writer, raw, prefix):
    store = writer.store
    await store.set_quota("ann", Quota(bytes=1000))
    await store.items.add("ann", "talk", [b"x" * 300, b"x" * 300], ttl=60)
    await store.items.add("ann", "short", [b"x" * 300], ttl=0.05)
    for name in ("talk", "other"):
        with pytest.raises(QuotaExceeded, match="1000 bytes"):
            await store.items.add("ann", name, [b"x" * 800], ttl=60)
    await store.items.add("bob", "talk", [b"x" * 2000], ttl=60)
    await asyncio.sleep(0.1)
    await store.items.add("ann", "other", [b"x" * 300], ttl=60)  # what has expired counts no more
    await store.items.pop("ann", "talk")
    await store.items.add("ann", "talk", [b"x" * 300], ttl=60)
    await store.items.clear("ann", "talk")
    await store.items.add("ann", "talk", [b"x" * 700], ttl=60)
    await store.items.pop("ann", "talk")
    await store.items.pop("ann", "other")
    assert raw.hgetall(TenantKeys(prefix, "ann").usage) == {b"sum": b"0:0"}
