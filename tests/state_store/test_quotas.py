"""A tenant gets no more than its quota, and always all of it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest
from writer import FINGERPRINT, PAGE, PAYLOAD, RANKS, TENANT, Trips

from state_store.errors import QuotaExceeded, StoreError
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.quotas import Quota, wrong_sum
from state_store.store import StateStore

TURN = RANKS * (PAYLOAD["kv"] + PAYLOAD["state"])  # bytes of one page and the state at its end


@pytest.fixture
def usage(raw, prefix):
    """The copies that a quota is checked against, by lineage."""

    def copies():
        found = raw.hgetall(TenantKeys(prefix, TENANT).usage)
        assert wrong_sum(found) is None
        found.pop(b"sum", None)
        return found

    return copies


@pytest.fixture
def sums(raw, prefix):
    """The sum of the copies, and how often the server read all of them to make one."""

    def read():
        calls = raw.info("commandstats").get("cmdstat_hvals", {"calls": 0})["calls"]
        return raw.hget(TenantKeys(prefix, TENANT).usage, "sum"), calls

    return read


async def test_without_a_quota_nothing_is_refused_or_copied(store, writer, usage):
    await writer.session([1, 2, 3, 4])
    assert await store.quota(TENANT) == Quota()
    assert usage() == {}


@pytest.mark.parametrize("quota", [Quota(bytes=2 * TURN), Quota(tokens=8)])
async def test_a_turn_that_exceeds_the_quota_is_refused_whole(store, writer, raw, prefix, quota):
    await store.set_quota(TENANT, quota)
    assert await store.quota(TENANT) == quota
    session = await writer.session([1, 2, 3, 4], [5, 6, 7, 8])
    with pytest.raises(QuotaExceeded, match="nothing was committed"):
        await writer.turn(session.id, [9, 9, 9, 9])
    assert await writer.history(session.id) == list(range(1, 9))
    keys = LineageKeys(prefix, lineage_of(session.id))
    assert not raw.exists(keys.journals, keys.aborted)
    assert await writer.problems() == []
    await store.set_quota(TENANT, Quota())
    await writer.turn(session.id, [9, 9, 9, 9])


async def test_sessions_and_forks_are_counted(store, writer):
    await store.set_quota(TENANT, Quota(sessions=2))
    session = await writer.session([1, 2, 3, 4])
    fork = await store.fork(session.id)
    for make in (
        lambda: store.fork(session.id),
        lambda: store.create_session(tenant=TENANT, fingerprint=FINGERPRINT),
    ):
        with pytest.raises(QuotaExceeded, match="may have 2 sessions, has 2"):
            await make()
    await store.create_session(tenant="another", fingerprint=FINGERPRINT)
    await store.delete_session(fork.id)
    await store.fork(session.id)
    assert await writer.problems() == []


async def test_a_quota_counts_what_was_there_before_it(store, writer):
    session = await writer.session([1, 2, 3, 4])
    await store.set_quota(TENANT, Quota(tokens=5))
    with pytest.raises(QuotaExceeded):
        await writer.turn(session.id, [5, 6])
    await writer.turn(session.id, [5])


async def test_what_is_deleted_and_rewound_is_free_again(store, writer):
    await store.set_quota(TENANT, Quota(bytes=2 * TURN))
    session = await writer.session([1, 2, 3, 4], [5, 6, 7, 8])
    lease = await writer.lease(session.id)
    first = (await store.ancestors(session.head))[0]
    await store.rewind(session.id, first.id, lease=lease)
    await store.release(lease)
    await writer.turn(session.id, [9, 9, 9, 9])
    await store.delete_session(session.id)
    await writer.session([1, 2, 3, 4], [5, 6, 7, 8])


async def test_a_commit_sent_again_is_not_refused(store, writer):
    await store.set_quota(TENANT, Quota(tokens=4))
    session = await writer.session()
    draft = await writer.draft(session.id, [1, 2, 3, 4])
    writer.put(draft)
    lease = await writer.lease(session.id)
    first = await store.commit(draft, lease=lease, durability="memory")
    again = await store.commit(draft, lease=lease, durability="memory")
    assert again.snapshot.id == first.snapshot.id


async def test_a_late_copy_does_not_take_the_place_of_a_newer_one(store, writer, usage, prefix):
    await store.set_quota(TENANT, Quota(tokens=100))
    session = await writer.session([1, 2, 3, 4], [5, 6])
    lineage = lineage_of(session.id).encode()
    newest = usage()
    assert newest[lineage].endswith(b":6")
    keys = TenantKeys(prefix, TENANT)

    async def copy_late():
        where = [keys.usage, keys.quota, keys.reserved]
        await store._control.run("mirror", where, lineage, 1, 10**9, 10**9, "")

    await copy_late()
    assert usage() == newest
    await store.delete_session(session.id)
    await copy_late()
    assert usage()[lineage].startswith(b"gone:")
    await writer.session(range(100))


async def test_a_client_killed_anywhere_leaves_no_copy_that_blocks_the_tenant(
    server, store, writer, raw, prefix, usage
):
    """It rewinds and dies; the session is deleted by others; the whole quota is free again."""
    await store.set_quota(TENANT, Quota(bytes=2 * TURN, tokens=8))
    at, finished = 0, False
    while not finished:
        at += 1
        session = await writer.session([1, 2, 3, 4], [5, 6, 7, 8])
        lease = await writer.lease(session.id)
        async with await StateStore.connect(server.url, prefix=prefix) as victim:
            trips = Trips(victim)
            trips.crash_at = ("after", at)
            try:
                await victim.rewind(session.id, None, lease=lease)
                finished = trips.count < at
            except StoreError:
                pass
        await store.delete_session(session.id)
        await store.recover(older_than=0)
        assert all(entry.startswith(b"gone:") for entry in usage().values())
    assert at > 4
    for lineage in usage():  # as if they had been gone for an hour
        raw.hset(TenantKeys(prefix, TENANT).usage, lineage, "gone:1")
    await store.recover(older_than=0)
    assert usage() == {}


async def test_old_copies_alone_refuse_nobody(store, writer, raw, prefix):
    await store.set_quota(TENANT, Quota(tokens=8))
    session = await writer.session([1, 2, 3, 4])
    copies = TenantKeys(prefix, TENANT).usage
    raw.hset(copies, "0" * 16, "3:1000:1000")  # of a lineage that is no more
    raw.hset(copies, lineage_of(session.id), "0:0:1000")
    await writer.turn(session.id, [5, 6, 7, 8])


async def test_states_inside_a_turn_count(store, writer):
    room = RANKS * (5 * PAYLOAD["kv"] + 3 * PAYLOAD["state"])
    session = await writer.session()
    draft = replace(await writer.draft(session.id, range(5 * PAGE)), checkpoints=(1, 3))
    writer.put(draft)
    lease = await writer.lease(session.id)
    await store.set_quota(TENANT, Quota(bytes=room - 1))
    with pytest.raises(QuotaExceeded):
        await store.commit(draft, lease=lease, durability="memory")
    await store.set_quota(TENANT, Quota(bytes=room))
    done = await store.commit(draft, lease=lease, durability="memory")
    assert done.snapshot.device_bytes == room


async def test_writers_that_race_stay_within_the_quota_together(
    server, store, writer, raw, prefix, monkeypatch
):
    """Another session's turn is committed between any two round trips of a commit."""
    monkeypatch.setattr("state_store.quotas._PATIENCE", 0.0)
    await store.set_quota(TENANT, Quota(tokens=4))
    at, met, outcomes = 0, True, set()
    while met:
        at += 1
        sessions = [await writer.session(), await writer.session()]
        draft = await writer.draft(sessions[0].id, [1, 2, 3])
        writer.put(draft)
        lease = await writer.lease(sessions[0].id)
        done = []

        async def other(one=sessions[1].id, done=done):
            with contextlib.suppress(QuotaExceeded):
                done.append(await writer.turn(one, [7, 8, 9]))

        async with await StateStore.connect(server.url, prefix=prefix) as first:
            trips = Trips(first)
            trips.between = (at, other)
            with contextlib.suppress(QuotaExceeded):
                done.append(await first.commit(draft, lease=lease, durability="memory"))
            met = trips.between is None
        assert len(done) == 1
        outcomes.add(done[0].snapshot.session_id == sessions[0].id)
        assert not raw.exists(TenantKeys(prefix, TENANT).reserved)
        for one in sessions:
            await store.delete_session(one.id)
    assert at > 4
    assert outcomes == {True, False}


async def test_sessions_made_at_the_same_time_stay_within_the_quota_together(store, raw, prefix):
    await store.set_quota(TENANT, Quota(sessions=3))

    async def make():
        with contextlib.suppress(QuotaExceeded):
            await store.create_session(tenant=TENANT, fingerprint=FINGERPRINT)

    await asyncio.gather(*(make() for _ in range(12)))
    assert len(await store.sessions(TENANT)) == 3
    assert not raw.exists(TenantKeys(prefix, TENANT).reserved)


async def test_who_fits_waits_for_what_is_under_way(server, store, writer, prefix):
    """A turn for which there is room is not refused because another one is just being counted."""
    await store.set_quota(TENANT, Quota(tokens=6))
    sessions = [await writer.session(), await writer.session()]
    await asyncio.gather(*(writer.turn(one.id, [1, 2, 3]) for one in sessions))
    for _ in range(20):
        for one in sessions:
            await writer.rewind(one.id, None)
        await asyncio.gather(*(writer.turn(one.id, [1, 2, 3]) for one in sessions))


async def test_room_of_a_writer_that_died_is_free_after_a_while(server, store, writer, raw, prefix):
    await store.set_quota(TENANT, Quota(tokens=4))
    session = await writer.session()
    draft = await writer.draft(session.id, [1, 2, 3])
    writer.put(draft)
    async with await StateStore.connect(server.url, prefix=prefix) as victim:
        lease = await writer.lease(session.id)
        Trips(victim).crash_at = ("after", 5)
        with pytest.raises(StoreError):
            await victim.commit(draft, lease=lease, durability="memory")
    reserved = TenantKeys(prefix, TENANT).reserved
    ((room, entry),) = raw.hgetall(reserved).items()
    assert 0 < raw.ttl(reserved) <= 120
    other = await writer.session()
    with pytest.raises(QuotaExceeded, match="of them under way"):
        await writer.turn(other.id, [7, 8, 9])
    raw.hset(reserved, room, b"1" + entry[entry.index(b":") :])  # as if it were long ago
    await writer.turn(other.id, [7, 8, 9])
    assert not raw.exists(reserved)


async def test_the_sum_of_all_copies_is_made_once_and_changes_with_each(
    store, writer, raw, prefix, usage, sums
):
    """Whatever adds or takes away: what is asked costs the same with any number of sessions."""
    await store.set_quota(TENANT, Quota(bytes=10**9, tokens=10**6))
    session = await writer.session([1, 2, 3, 4], [5, 6])
    _, made = sums()
    fork = await store.fork(session.id)
    await writer.turn(fork.id, [7, 8, 9, 10, 11, 12])
    assert sums()[0].endswith(b":12")
    await writer.rewind(fork.id, session.head)
    assert usage()[lineage_of(session.id).encode()].endswith(b":6")
    assert sums()[0].endswith(b":6")
    other = await writer.session([1, 2])
    await store.attachments.put(other, "a", b"x" * 50, ttl=60)
    await store.files.put(other, [b"y" * 50])
    await store.items.add(TENANT, "talk", [b"x" * 30, b"y"], ttl=60)
    await store.items.add(TENANT, "other", [b"x" * 30], ttl=60)
    await store.items.add(TENANT, "short", [b"x" * 30], ttl=60)
    before = usage()
    assert before[b"items:talk"] == b"0:31:0"
    raw.delete(TenantKeys(prefix, TENANT).items("short"))  # as if it had expired
    await store.items.pop(TENANT, "talk")
    await store.items.pop(TENANT, "other")
    await store.recover(older_than=0)
    assert {one for one in usage() if one.startswith(b"items:")} == {b"items:talk"}
    await store.items.clear(TENANT, "talk")
    assert sums()[0].endswith(b":8")
    await store.delete_session(other.id)
    await store.delete_session(session.id)
    await store.delete_session(fork.id)
    assert usage().keys() == {lineage_of(one.id).encode() for one in (session, other)}
    assert sums() == (b"0:0", made)
    assert await writer.problems() == []


async def test_a_store_without_a_sum_gets_one_from_who_asks_first(
    store, writer, raw, prefix, usage, sums
):
    await store.set_quota(TENANT, Quota(tokens=8))
    session = await writer.session([1, 2, 3, 4])
    raw.hdel(TenantKeys(prefix, TENANT).usage, "sum")
    _, made = sums()
    assert await writer.problems() == []
    await writer.turn(session.id, [5, 6])
    await writer.turn(session.id, [7, 8])
    assert usage()
    assert sums() == (b"%d:8" % (2 * TURN), made + 1)
    with pytest.raises(QuotaExceeded):
        await writer.turn(session.id, [9])


@pytest.mark.parametrize("wrong", ["1:1", "1000000:1000000", "-4:-4", "much"])
async def test_a_wrong_sum_is_told_of_and_mended_and_refuses_nobody(
    store, writer, raw, prefix, usage, sums, wrong
):
    await store.set_quota(TENANT, Quota(tokens=8))
    session = await writer.session([1, 2, 3, 4])
    raw.hset(TenantKeys(prefix, TENANT).usage, "sum", wrong)
    (problem,) = (await store.check_integrity()).problems
    assert (problem.kind, problem.subject) == ("tenant-totals", TENANT)
    assert str(problem).endswith(f"are {wrong}, and of its lineages and lists {TURN}:4")
    await store.recover(older_than=0)
    assert await writer.problems() == []
    raw.hset(TenantKeys(prefix, TENANT).usage, "sum", "1000000:1000000")
    await writer.turn(session.id, [5, 6, 7, 8])
    with pytest.raises(QuotaExceeded, match="may have 8 tokens, has 8,"):
        await writer.turn(session.id, [9])
