"""Which sessions a sweep moves out, in which order, and which it leaves alone."""

from __future__ import annotations

import asyncio

import pytest
from shelf import KV_BYTES, RANKS, STATE_BYTES, Shelf

from state_store.archive.policy import ArchivePolicy
from state_store.archive.sweep import sweep
from state_store.errors import ArchiveUnavailable, InvalidPolicy
from state_store.layout import LineageKeys, lineage_of, new_lineage

SESSION_BYTES = RANKS * (2 * KV_BYTES + STATE_BYTES)  # of one with two pages, on the device


@pytest.fixture
async def shelf(server, tmp_path, monkeypatch):
    opened = Shelf(server.url, tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def own_shelf(own_server, tmp_path):
    opened = Shelf(own_server.url, tmp_path)
    yield opened
    await opened.close()


@pytest.fixture(autouse=True)
def objects_count_as_idle(monkeypatch):
    """They were all written just now; test_archive_moves.py tests their own idle times."""
    monkeypatch.setattr("state_store.archive.archivist.look", _look_idle)


async def _look_idle(control, targets):
    from state_store.archive.targets import look

    return [where._replace(idle=1 << 30) for where in await look(control, targets)]


async def test_sessions_idle_for_long_enough_are_moved_the_idlest_first(shelf):
    histories = [shelf.snapshot() for _ in range(3)]
    fresh, old, oldest = (
        shelf.session(one, used=seconds)
        for one, seconds in zip(histories, (100, 5000, 9000), strict=True)
    )
    report = await shelf.sweep(idle=3600)
    assert [(s.session_id, s.tenant, s.reason) for s in report.sessions] == [
        (oldest, "default", "idle"),
        (old, "default", "idle"),
    ]
    assert report.objects == 6
    assert report.bytes == 2 * (SESSION_BYTES + 3 * RANKS * 128)
    assert [shelf.places(one) for one in histories] == [{"stored"}, {"archived"}, {"archived"}]
    await shelf.check(*histories)
    assert shelf.listed() == {fresh}


async def test_a_session_that_was_moved_is_not_looked_at_again_until_it_is_used(shelf):
    snapshot = shelf.snapshot()
    session_id = shelf.session(snapshot, used=5000)
    await shelf.sweep(idle=3600)
    assert (await shelf.sweep(idle=3600)).sessions == []
    await shelf.archivist.bring_back([snapshot])
    shelf.raw.zadd(f"{shelf.prefix}:{{tenant:default}}:used", {session_id: 1})
    assert (await shelf.sweep(idle=3600)).objects == 3


async def test_a_session_that_is_used_while_it_is_moved_stays_listed(shelf):
    snapshot = shelf.snapshot()
    session_id = shelf.session(snapshot, used=5000)
    put = shelf.archive.put

    def used_meanwhile(name, value):
        put(name, value)
        shelf.raw.zadd(f"{shelf.prefix}:{{tenant:default}}:used", {session_id: 1_900_000_000})

    shelf.archivist.archive.put = used_meanwhile
    await shelf.sweep(idle=3600)
    assert shelf.listed() == {session_id}


async def test_an_empty_session_is_taken_off_the_list(shelf):
    shelf.session(used=5000)
    assert (await shelf.sweep(idle=3600)).objects == 0
    assert shelf.listed() == set()


async def test_a_leased_session_stays(shelf):
    snapshot = shelf.snapshot()
    session_id = shelf.session(snapshot, used=5000)
    shelf.raw.set(LineageKeys(shelf.prefix, lineage_of(session_id)).lease(session_id), "x")
    assert (await shelf.sweep(idle=3600)).sessions == []
    assert shelf.places(snapshot) == {"stored"}


async def test_what_a_busy_fork_shares_stays_with_it(shelf):
    lineage = new_lineage()
    root, own, forks = (shelf.snapshot() for _ in range(3))
    idle = shelf.session(root, own, used=5000, lineage=lineage)
    shelf.session(root, forks, used=100, lineage=lineage)
    report = await shelf.sweep(idle=3600)
    assert [(s.session_id, s.moved.objects, s.moved.busy) for s in report.sessions] == [
        (idle, 3, 3)
    ]
    assert [shelf.places(one) for one in (root, own, forks)] == [
        {"stored"}, {"archived"}, {"stored"},
    ]  # fmt: skip
    assert len(shelf.listed()) == 2


async def test_what_a_leased_fork_shares_stays_with_it(shelf):
    lineage = new_lineage()
    root = shelf.snapshot()
    shelf.session(root, used=5000, lineage=lineage)
    fork = shelf.session(root, used=9000, lineage=lineage)
    shelf.raw.set(LineageKeys(shelf.prefix, lineage).lease(fork), "x")
    await shelf.sweep(idle=3600)
    assert shelf.places(root) == {"stored"}


async def test_a_tenant_over_its_quota_gives_up_its_idlest_sessions_until_it_is_not(shelf):
    mine = [shelf.snapshot() for _ in range(3)]
    for number, one in enumerate(mine):
        shelf.session(one, used=900 - 100 * number, tenant="greedy")
    modest = shelf.snapshot()
    shelf.session(modest, used=5000, tenant="modest")
    report = await shelf.sweep(tenant_quota_bytes=SESSION_BYTES + 10)
    assert [(s.tenant, s.reason) for s in report.sessions] == [("greedy", "quota")] * 2
    assert [shelf.places(one) for one in mine] == [{"archived"}, {"archived"}, {"stored"}]
    assert shelf.places(modest) == {"stored"}


async def test_what_is_archived_or_shared_does_not_count_twice_towards_a_quota(shelf):
    lineage = new_lineage()
    archived, shared = shelf.snapshot(), shelf.snapshot()
    await shelf.archivist.move_out([archived])
    for used in (500, 600, 700):
        shelf.session(archived, shared, used=used, lineage=lineage)
    assert (await shelf.sweep(tenant_quota_bytes=SESSION_BYTES)).sessions == []
    assert len((await shelf.sweep(tenant_quota_bytes=SESSION_BYTES - 1)).sessions) == 1


async def test_memory_over_the_high_watermark_is_brought_under_the_low_one(own_shelf):
    shelf = own_shelf
    histories = [shelf.snapshot() for _ in range(6)]
    for number, one in enumerate(histories):
        shelf.session(one, used=900 - 100 * number)
    await shelf.sweep()  # connects, and loads the scripts
    used = shelf.raw.info("memory")["used_memory"]
    stored = SESSION_BYTES + 3 * RANKS * 128
    report = await shelf.sweep(memory_high=used // 2, memory_low=used // 2)
    assert len(report.sessions) == 6  # all there is, and still not enough
    await shelf.archivist.bring_back(histories)
    for number, one in enumerate(histories):
        shelf.session(one, used=900 - 100 * number)
    used = shelf.raw.info("memory")["used_memory"]
    assert (await shelf.sweep(memory_high=2 * used, memory_low=1)).sessions == []
    report = await shelf.sweep(memory_high=used - 10 * stored, memory_low=used - 10 * stored)
    assert {s.reason for s in report.sessions} == {"memory"}


async def test_watermarks_may_be_fractions_of_what_the_server_may_use(own_shelf):
    shelf = own_shelf
    histories = [shelf.snapshot(pages=100) for _ in range(4)]
    for number, one in enumerate(histories):
        shelf.session(one, used=900 - 100 * number)
    with pytest.raises(InvalidPolicy, match="maxmemory"):
        await shelf.sweep(memory_high=0.9, memory_low=0.5)
    used = shelf.raw.info("memory")["used_memory"]
    size = RANKS * (100 * (KV_BYTES + 128) + STATE_BYTES + 128)
    shelf.raw.config_set("maxmemory", 4 * used)
    low = (used - 1.5 * size) / (4 * used)
    assert (await shelf.sweep(memory_high=0.5, memory_low=low)).sessions == []
    report = await shelf.sweep(memory_high=low, memory_low=low)
    shelf.raw.config_set("maxmemory", 0)
    count = len(report.sessions)  # the server's own buffers come and go with the connections
    assert 1 <= count <= 3
    assert {s.reason for s in report.sessions} == {"memory"}
    moved = [{"archived"}] * count + [{"stored"}] * (4 - count)
    assert [shelf.places(one) for one in histories] == moved


async def test_what_was_used_just_now_is_moved_for_no_reason(own_shelf):
    shelf = own_shelf
    snapshot = shelf.snapshot()
    shelf.session(snapshot, used=30)
    policy = {"memory_high": 1, "memory_low": 1, "tenant_quota_bytes": 0, "idle": 10.0}
    assert (await shelf.sweep(**policy)).sessions == []
    assert len((await shelf.sweep(**policy, spare=5.0)).sessions) == 1


async def test_sweepers_share_the_work(shelf):
    histories = [shelf.snapshot() for _ in range(12)]
    for one in histories:
        shelf.session(one, used=5000)
    others = [shelf.another() for _ in range(3)]
    reports = await asyncio.gather(
        *(
            sweep(control, shelf.prefix, shelf, archivist, ArchivePolicy(idle=3600))
            for archivist, control in others
        )
    )
    assert sum(report.objects for report in reports) == 36
    assert {shelf.places(one) == {"archived"} for one in histories} == {True}
    await shelf.check(*histories)
    for archivist, control in others:
        archivist.close()
        archivist._client.close()
        await control.close()


async def test_a_claimed_session_is_left_to_its_sweeper(shelf):
    snapshot = shelf.snapshot()
    session_id = shelf.session(snapshot, used=5000)
    claim = LineageKeys(shelf.prefix, lineage_of(session_id)).lease(session_id) + ":sweep"
    shelf.raw.set(claim, "another", px=60_000)
    report = await shelf.sweep(idle=3600)
    assert (report.sessions, report.claimed) == ([], 1)
    assert shelf.raw.get(claim) == b"another"
    shelf.raw.delete(claim)
    assert len((await shelf.sweep(idle=3600)).sessions) == 1
    assert not shelf.raw.exists(claim)


async def test_a_sweep_that_fails_gives_its_claim_up(shelf):
    snapshot = shelf.snapshot()
    session_id = shelf.session(snapshot, used=5000)

    def fails(name, value):
        raise ArchiveUnavailable("gone")

    shelf.archivist.archive.put = fails
    with pytest.raises(ArchiveUnavailable):
        await shelf.sweep(idle=3600)
    assert shelf.raw.keys(f"{shelf.prefix}:*:sweep") == []
    assert shelf.listed() == {session_id}
    await shelf.check(snapshot)


async def test_a_full_store_can_be_swept(own_shelf):
    shelf = own_shelf
    snapshot = shelf.snapshot()
    shelf.session(snapshot, used=5000)
    shelf.raw.config_set("maxmemory", 1)
    report = await shelf.sweep(memory_high=1.0, memory_low=1.0)
    shelf.raw.config_set("maxmemory", 0)
    assert (report.objects, report.sessions[0].reason) == (3, "memory")


@pytest.mark.parametrize(
    "policy",
    [
        {"memory_high": 0.9},
        {"memory_low": 100},
        {"memory_high": 0.9, "memory_low": 100},
        {"memory_high": 0.5, "memory_low": 0.9},
        {"memory_high": 1.5, "memory_low": 0.9},
        {"memory_high": 10, "memory_low": 0},
        {"idle": -1.0},
        {"spare": -1.0},
        {"tenant_quota_bytes": -1},
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(policy):
    with pytest.raises(InvalidPolicy):
        ArchivePolicy(**policy)
