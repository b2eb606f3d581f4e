"""A session that is deleted while somebody writes it leaves nothing behind."""

from __future__ import annotations

import contextlib

import pytest
from writer import TENANT, Trips

from state_store.errors import StoreError
from state_store.layout import TenantKeys
from state_store.store import StateStore


def listed(raw, writer):
    """The tenant's sessions by their last use: a check takes none for left over that is young."""
    return [one.decode() for one in raw.zrange(TenantKeys(writer.prefix, TENANT).used, 0, -1)]


async def test_a_turn_that_comes_to_its_commit_lists_nothing_again(writer, raw):
    session = await writer.session([1, 2, 3, 4, 5])
    lease = await writer.lease(session.id)
    draft = await writer.draft(session.id, [6, 7, 8, 9])
    writer.put(draft)
    await writer.store.delete_session(session.id)
    with pytest.raises(StoreError):
        await writer.store.commit(draft, lease=lease, durability="memory")
    await writer.store.release(lease)
    assert listed(raw, writer) == []


async def test_a_turn_that_begins_meanwhile_lists_nothing_for_good(writer, server, raw):
    at, undisturbed = 0, False
    async with await StateStore.connect(server.url, prefix=writer.prefix) as victim:
        while not undisturbed:
            at += 1
            session = await writer.session([1, 2, 3])
            trips = Trips(victim)
            trips.between = (at, lambda id_=session.id: writer.store.delete_session(id_))
            with contextlib.suppress(StoreError):
                lease = await victim.acquire(session.id, ttl=30.0, owner="victim")
                undisturbed = trips.between is not None
                trips.between = None
                await victim.release(lease)
            still_there = [session.id] if undisturbed else []
            assert listed(raw, writer) == still_there
    assert at > 2
