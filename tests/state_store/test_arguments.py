"""Numbers that nothing can have are refused as such, and change nothing."""

from __future__ import annotations

import pytest
from writer import TENANT

from state_store.errors import InvalidArgument
from state_store.quotas import Quota


@pytest.mark.parametrize("ttl", [0, -1, 0.0004, float("nan"), float("inf")])
async def test_nothing_lives_for_no_time_at_all_or_for_ever(writer, ttl):
    store = writer.store
    session = await writer.session([1, 2, 3, 4])
    lease = await writer.lease(session.id)
    await store.items.add(TENANT, "list", [b"1"], ttl=60)
    for refused in (
        store.acquire(session.id, ttl=ttl, owner="me"),
        store.renew(lease, ttl=ttl),
        store.notes.put(TENANT, "note", b"1", ttl=ttl),
        store.notes.put_new(TENANT, "note", b"1", ttl=ttl),
        store.session_notes.put(session, "note", b"1", ttl=ttl),
        store.attachments.put(session, "a", b"1", ttl=ttl),
        store.items.add(TENANT, "list", [b"2"], ttl=ttl),
    ):
        with pytest.raises(InvalidArgument, match="nothing was changed"):
            await refused
    assert await store.writer(session.id) == "writer"
    assert await store.items.last(TENANT, "list") == [b"1"]


async def test_a_quota_is_not_negative(writer):
    await writer.store.set_quota(TENANT, Quota(tokens=4))
    for quota in (Quota(bytes=-1), Quota(tokens=-2, sessions=1)):
        with pytest.raises(InvalidArgument, match="it was not changed"):
            await writer.store.set_quota(TENANT, quota)
    assert await writer.store.quota(TENANT) == Quota(tokens=4)


async def test_a_page_has_room_for_a_session(writer):
    await writer.store.create_tenant(TENANT)
    for limit in (0, -1):
        with pytest.raises(InvalidArgument, match="at least 1"):
            await writer.store.page_of_sessions(TENANT, limit=limit)
        with pytest.raises(InvalidArgument, match="at least 1"):
            await writer.store.page_of_sessions(TENANT, limit=limit, labels={"a": "b"})
