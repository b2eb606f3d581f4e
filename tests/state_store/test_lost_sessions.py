"""A session whose record is lost or unreadable can still be deleted, with what only it held."""

from __future__ import annotations

import pytest
from writer import TENANT, Trips

from state_store.errors import CorruptObject, ForeignTenant, NotFound, StoreError
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.quotas import Quota
from state_store.store import StateStore

TURNS = ([1, 2, 3, 4], [5, 6, 7, 8])


def lose(raw, key):
    raw.delete(key)


def garble(raw, key):
    raw.hset(key, "body", b"\x01?")


def behead(raw, key):
    raw.hdel(key, "head")


@pytest.fixture(params=[lose, garble, behead])
async def lost(request, writer, raw, prefix):
    """Two turns, a fork of both with one more, and the fork's record is of no use any more."""
    session = await writer.session(*TURNS)
    fork = await writer.store.fork(session.id, labels={"colour": "blue"})
    await writer.turn(fork.id, [9, 10, 11, 12])
    request.param(raw, LineageKeys(prefix, lineage_of(fork.id)).session(fork.id))
    return session, await writer.store.session(session.id), fork.id


async def test_what_only_it_held_goes_and_what_others_hold_stays(lost, writer, raw, prefix):
    session, _, lost_id = lost
    await writer.store.set_quota(TENANT, Quota(tokens=12))
    await writer.store.delete_session(lost_id, tenant=TENANT)
    await writer.store.recover(older_than=0)
    assert await writer.problems() == []
    assert await writer.history(session.id) == list(range(1, 9))
    assert len(raw.keys(f"{prefix}:{{*}}:snapshot:*")) == 2
    assert [one.id for one in await writer.store.sessions(TENANT)] == [session.id]
    await writer.turn(session.id, [9, 10, 11, 12])  # its tokens are free again
    with pytest.raises(NotFound):
        await writer.store.delete_session(lost_id)


async def test_the_last_of_its_lineage_leaves_nothing(lost, writer, raw, prefix):
    session, _, lost_id = lost
    await writer.store.delete_session(session.id)
    await writer.store.delete_session(lost_id)
    await writer.store.recover(older_than=0)
    assert await writer.problems() == []
    assert raw.keys(f"{prefix}:{{{lineage_of(lost_id)}}}:*") == []
    assert raw.keys(f"{prefix}:pins:*") == []
    assert raw.zcard(TenantKeys(prefix, TENANT).sessions) == 0


async def test_it_is_left_out_of_lists_and_named_when_it_is_asked_for(lost, writer):
    session, _, lost_id = lost
    assert [one.id for one in await writer.store.sessions(TENANT)] == [session.id]
    page = await writer.store.page_of_sessions(TENANT, limit=10)
    assert [one.id for one in page.sessions] == [session.id]
    with pytest.raises((CorruptObject, NotFound), match=lost_id):
        await writer.store.session(lost_id)


async def test_its_tenant_can_be_deleted_with_all_that_is_theirs(lost, writer, raw, prefix):
    await writer.store.delete_tenant(TENANT)
    await writer.store.recover(older_than=0)
    assert raw.keys(f"{prefix}:{{*}}:session:*") == raw.keys(f"{prefix}:{{*}}:tokens:*") == []


async def test_what_others_hold_is_read_however_many_are_lost(writer, raw, prefix):
    session = await writer.session(*TURNS)
    for damage in (lose, garble) * 4:
        fork = await writer.store.fork(session.id)
        damage(raw, LineageKeys(prefix, lineage_of(fork.id)).session(fork.id))
    for _ in range(4):  # whichever of the lineage is asked first
        assert (await writer.store.snapshot(session.head, tenant=TENANT)).id == session.head
        with pytest.raises(ForeignTenant):
            await writer.store.snapshot(session.head, tenant="another")


async def test_another_tenant_cannot_delete_it(lost, writer):
    _, _, lost_id = lost
    for tenant in ("another", "no name"):
        with pytest.raises(StoreError) as refused:
            await writer.store.delete_session(lost_id, tenant=tenant)
        assert isinstance(refused.value, (NotFound, CorruptObject))
    report = await writer.store.check_integrity()
    assert "session-record" in {problem.kind for problem in report.problems}


async def test_while_another_record_is_lost_too_nothing_is_let_go(writer, raw, prefix):
    session = await writer.session(*TURNS)
    forks = [await writer.store.fork(session.id) for _ in range(2)]
    keys = LineageKeys(prefix, lineage_of(session.id))
    for fork in forks:
        await writer.turn(fork.id, [9, 10, 11, 12])
        await writer.turn(fork.id, [len(fork.id)] * 4)
        raw.delete(keys.session(fork.id))
    before = set(raw.keys(f"{prefix}:{{*}}:snapshot:*"))
    await writer.store.delete_session(forks[0].id)
    await writer.store.recover(older_than=0)
    assert set(raw.keys(f"{prefix}:{{*}}:snapshot:*")) == before
    await writer.store.delete_session(forks[1].id)
    assert len(raw.keys(f"{prefix}:{{*}}:snapshot:*")) == 2
    await writer.store.recover(older_than=0)
    assert await writer.problems() == []
    assert await writer.history(session.id) == list(range(1, 9))


async def test_deleting_it_may_end_half_way_and_be_repeated(server, writer, raw, prefix):
    at, finished = 0, False
    while not finished:
        at += 1
        session = await writer.session(*TURNS)
        fork = await writer.store.fork(session.id)
        await writer.turn(fork.id, [9, 10, 11, 12])
        raw.delete(LineageKeys(prefix, lineage_of(fork.id)).session(fork.id))
        async with await StateStore.connect(server.url, prefix=prefix) as victim:
            trips = Trips(victim)
            trips.crash_at = ("after", at)
            try:
                await victim.delete_session(fork.id)
                finished = trips.count < at
            except StoreError:
                pass
        try:
            await writer.store.delete_session(fork.id)
        except NotFound:  # repair does the rest
            await writer.store.check_integrity(repair=True)
        await writer.store.recover(older_than=0)
        assert await writer.problems() == []
        assert await writer.history(session.id) == list(range(1, 9))
        await writer.store.delete_session(session.id)
    assert at > 5


async def test_a_session_that_is_whole_is_never_taken_for_a_lost_one(writer):
    session = await writer.session(*TURNS)
    with pytest.raises(ForeignTenant):
        await writer.store.delete_session(session.id, tenant="another")
    assert await writer.history(session.id) == list(range(1, 9))
