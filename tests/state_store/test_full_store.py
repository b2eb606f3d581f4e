"""A store without memory refuses what adds, in these words, and everything can be deleted."""

from __future__ import annotations

import pytest
import redis
from author import FINGERPRINT, Author
from sealing import opened

from state_store.errors import StoreFull
from state_store.objects import ObjectClient

PREFIX = "full"


@pytest.fixture
async def full(own_server):
    """A store with sessions of ann, who is encrypted, and of cleo, and the one command that fills
    it up."""
    client = ObjectClient(own_server.url, timeout=5.0)
    with redis.Redis.from_url(own_server.url) as raw:
        async with await opened(own_server, PREFIX) as store:
            await store.create_tenant("ann", encrypted=True)
            yield Author(store, client, PREFIX), lambda: raw.config_set("maxmemory", 1), raw
    client.close()


async def test_what_adds_is_refused_and_nothing_is_lost(full):
    author, fill, raw = full
    session = await author.session("cleo", range(40))
    draft = await author.draft(session.id, range(100, 140))
    await author.put(draft)
    lease = await author.store.acquire(session.id, ttl=30, owner="me")
    fill()
    adding = [
        lambda: author.store.create_session(tenant="cleo", fingerprint=FINGERPRINT),
        lambda: author.store.create_tenant("dora"),
        lambda: author.store.fork(session.id),
        lambda: author.store.commit(draft, lease=lease, durability="memory"),
        lambda: author.store.attachments.put(session, "a", b"1", ttl=60),
        lambda: author.store.items.add("cleo", "list", [b"1"], ttl=60),
        lambda: author.put(draft),
    ]
    for add in adding:
        with pytest.raises(StoreFull, match="memory"):
            await add()
    await author.store.renew(lease, ttl=30)
    assert (await author.store.session(session.id)).head == session.head
    raw.config_set("maxmemory", 0)
    await author.store.commit(draft, lease=lease, durability="memory")
    assert (await author.store.check_integrity()).problems == []


async def test_everything_can_be_deleted(full):
    author, fill, raw = full
    for tenant in ("ann", "cleo"):
        first, second = [await author.session(tenant, range(40)) for _ in range(2)]
        await author.store.items.add(tenant, "list", [b"1", b"2"], ttl=60)
        await author.store.attachments.put(second, "a", b"1", ttl=60)
        lease = await author.store.acquire(second.id, ttl=30, owner="me")
        fill()
        assert await author.store.items.pop(tenant, "list") == b"2"
        assert await author.store.attachments.delete(second, "a")
        assert (await author.store.rewind(second.id, None, lease=lease)).head is None
        await author.store.release(lease)
        await author.store.delete_session(first.id)
        assert await author.store.delete_tenant(tenant) == 1
        raw.config_set("maxmemory", 0)
    await author.store.recover(older_than=0)
    assert (await author.store.check_integrity()).problems == []
    assert not raw.keys(f"{PREFIX}:*session:*")
