"""The archive as a part of the store: sessions leave it, live on, and come back."""

from __future__ import annotations

import itertools

import pytest
from servers import Cluster
from writer import RANKS, TENANT, Trips, Writer

from state_store.archive.collect import check_archive
from state_store.archive.policy import ArchivePolicy
from state_store.errors import (
    ArchivedObjectsLost,
    ArchiveRefused,
    ArchiveUnavailable,
    LeaseHeld,
    NotFound,
    StoreError,
)
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.objects import ObjectClient
from state_store.store import StateStore

FIRST, SECOND = range(12), range(12, 20)  # 3 pages and 2, with a state each


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "archive"


@pytest.fixture
async def store(server, prefix, folder):
    url = f"file://{folder}"
    async with await StateStore.connect(server.url, prefix=prefix, archive=url) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_is_old_enough_to_wait_for(monkeypatch):
    """Whatever moves left behind may be collected at once: nobody else moves anything."""
    for name in ("MOVE_LIMIT", "ORPHAN_AGE"):
        monkeypatch.setattr(f"state_store.archiving.{name}", 0)


@pytest.fixture
def idle(raw, prefix):
    """Make a session look as if nobody had used it for so many seconds."""

    def age(session_id, seconds, tenant=TENANT):
        now = raw.time()[0]
        raw.zadd(TenantKeys(prefix, tenant).used, {session_id: now - seconds})
        for key in itertools.chain.from_iterable(
            raw.scan_iter(f"{prefix}:{kind}:*") for kind in ("kv", "state")
        ):
            raw.restore(key, 0, raw.dump(key), replace=True, idletime=seconds)

    return age


def in_redis(raw, prefix):
    """Objects, all ranks."""
    return sum(len(raw.keys(f"{prefix}:{kind}:*")) for kind in ("kv", "state"))


def files_of(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


async def in_order(writer, folder):
    """Collected, the archive holds what cold keys name and nothing else."""
    store = writer.store
    await store.recover(older_than=0)
    report = await check_archive(store._control, writer.prefix, store._archiving.archive)
    assert report.problems == []
    assert len(files_of(folder)) == RANKS * report.objects


async def test_a_session_goes_to_the_archive_and_comes_back(writer, raw, prefix, folder):
    session = await writer.session(FIRST, SECOND)
    moved = await writer.store.archive_session(session.id)
    assert (moved.objects, moved.left, moved.busy) == (7, 0, 0)
    assert (in_redis(raw, prefix), len(files_of(folder))) == (0, 7 * RANKS)
    assert await writer.store.residency(session.id) == "archived"
    assert await writer.history(session.id) == [*FIRST, *SECOND]
    back = await writer.store.bring_back(session.id)
    assert back.objects == 7
    assert await writer.store.residency(session.id) == "stored"
    assert await writer.problems() == []
    await in_order(writer, folder)
    assert files_of(folder) == []


async def test_an_archived_session_is_forked_and_committed_to_where_it_is(writer, raw, prefix):
    session = await writer.session(FIRST)
    await writer.store.archive_session(session.id)
    fork = await writer.store.fork(session.id)
    await writer.turn(fork.id, SECOND)
    assert await writer.history(fork.id) == [*FIRST, *SECOND]
    assert await writer.store.residency(fork.id) == "partly"
    await writer.store.bring_back(fork.id)
    assert await writer.store.residency(session.id) == "stored"
    assert await writer.problems() == []


async def test_a_commit_takes_archived_objects_for_there(writer, raw, prefix):
    session = await writer.session()
    draft = await writer.draft(session.id, FIRST)
    writer.put(draft)
    other = await writer.session(FIRST)
    await writer.store.archive_session(other.id)
    assert in_redis(raw, prefix) == 0
    lease = await writer.lease(session.id)
    await writer.store.commit(draft, lease=lease, durability="memory")
    await writer.store.release(lease)
    assert await writer.store.residency(session.id) == "archived"
    await writer.store.delete_session(other.id)
    assert (await writer.store.bring_back(session.id)).objects == 4
    assert await writer.problems() == []


async def test_the_history_up_to_a_snapshot_can_be_brought_back(writer):
    session = await writer.session(FIRST, SECOND)
    first = (await writer.store.snapshot(session.head)).parent
    await writer.store.archive_session(session.id)
    assert (await writer.store.bring_back(first)).objects == 4
    assert await writer.store.residency(session.id) == "partly"


async def test_of_an_archived_session_only_what_a_resume_loads_may_be_brought_back(
    writer, raw, prefix
):
    session = await writer.session(FIRST, SECOND)
    await writer.store.archive_session(session.id)
    assert (await writer.store.bring_back(session.id, whole=False)).objects == 5 + 1
    assert await writer.store.residency(session.id) == "stored"
    assert len(raw.keys(f"{prefix}:state:*")) == RANKS
    empty = await writer.session()
    assert (await writer.store.bring_back(empty.id, whole=False)).objects == 0


async def test_another_tenants_session_is_not_there(writer):
    session = await writer.session(FIRST)
    for move in (
        writer.store.archive_session(session.id, tenant="other"),
        writer.store.bring_back(session.id, tenant="other"),
        writer.store.bring_back(session.head, tenant="other"),
        writer.store.residency(session.id, tenant="other"),
    ):
        with pytest.raises(NotFound):
            await move


async def test_a_session_that_is_being_written_stays(writer, raw, prefix):
    session = await writer.session(FIRST)
    lease = await writer.lease(session.id)
    with pytest.raises(LeaseHeld):
        await writer.store.archive_session(session.id)
    await writer.store.release(lease)
    assert (await writer.store.archive_session(session.id)).objects == 4


async def test_of_a_forked_history_only_what_nothing_in_use_holds_goes(writer, raw, prefix, idle):
    session = await writer.session(FIRST)
    fork = await writer.store.fork(session.id)
    await writer.turn(session.id, SECOND)
    moved = await writer.store.archive_session(session.id)
    assert (moved.objects, moved.busy) == (3, 4)
    assert await writer.store.residency(fork.id) == "stored"
    assert await writer.store.residency(session.id) == "partly"
    idle(fork.id, 100)
    assert (await writer.store.archive_session(session.id)).objects == 4
    assert await writer.store.residency(fork.id) == "archived"


async def test_residency_tells_lost_and_empty_from_archived(writer, raw, prefix, folder):
    empty = await writer.session()
    assert await writer.store.residency(empty.id) == "empty"
    short = await writer.session([1, 2, 3])
    assert await writer.store.residency(short.id) == "tokens"
    session = await writer.session(FIRST)
    await writer.store.archive_session(session.id)
    for key in raw.keys(f"{prefix}:cold:*"):
        raw.delete(key)
    assert await writer.store.residency(session.id) == "lost"
    with pytest.raises(ArchivedObjectsLost):
        await writer.store.bring_back(session.id)
    with pytest.raises(NotFound):
        await writer.store.residency(f"ses-{'0' * 16}-{'0' * 16}")


# ---- sweeps ------------------------------------------------------------------


async def test_a_sweep_moves_what_was_idle_for_long_enough(writer, idle):
    old, fresh = await writer.session(FIRST), await writer.session(range(50, 62))
    assert (await writer.store.sweep(ArchivePolicy(idle=3600))).sessions == []
    idle(old.id, 5000)
    report = await writer.store.sweep(ArchivePolicy(idle=3600))
    assert [(one.session_id, one.reason) for one in report.sessions] == [(old.id, "idle")]
    assert await writer.store.residency(old.id) == "archived"
    assert await writer.store.residency(fresh.id) == "stored"


async def test_a_sweep_takes_a_tenant_under_its_quota(writer, idle):
    sessions = [await writer.session(range(start, start + 12)) for start in (0, 100, 200)]
    for age, session in enumerate(sessions):
        idle(session.id, 900 - age)
    each = RANKS * (3 * 96 + 160)
    report = await writer.store.sweep(ArchivePolicy(tenant_quota_bytes=2 * each))
    assert [one.session_id for one in report.sessions] == [sessions[0].id]


async def test_a_sweep_takes_memory_under_the_watermark(own_server, objects, tmp_path):
    url = f"file://{tmp_path}/archive"
    client = ObjectClient(own_server.url, timeout=5.0)
    async with await StateStore.connect(own_server.url, prefix="p", archive=url) as store:
        writer = Writer(store, client, "p")
        session = await writer.session(FIRST)
        policy = ArchivePolicy(memory_high=1, memory_low=1, spare=0)
        report = await store.sweep(policy)
        assert [(one.session_id, one.reason) for one in report.sessions] == [(session.id, "memory")]
    client.close()


@pytest.mark.parametrize("masters", [1, 3])
async def test_a_sweep_counts_the_memory_of_all_masters_of_a_cluster(tmp_path, masters):
    with Cluster(tmp_path / "cluster", masters=masters) as cluster:
        client = ObjectClient(cluster.url, timeout=5.0)
        archive = f"file://{tmp_path}/archive"
        async with await StateStore.connect(cluster.url, prefix="p", archive=archive) as store:
            writer = Writer(store, client, "p")
            session = await writer.session(FIRST)
            report = await store.sweep(ArchivePolicy(memory_high=1, memory_low=1, spare=0))
            assert [one.session_id for one in report.sessions] == [session.id]
        client.close()


async def using_acquire(writer, session):
    await writer.store.release(await writer.lease(session.id))


async def using_commit(writer, session):
    draft = await writer.draft(session.id, SECOND)
    writer.put(draft)
    lease = await writer.lease(session.id)
    writer.age(session.id)
    await writer.store.commit(draft, lease=lease, durability="memory")
    await writer.store.release(lease)


async def using_bring_back(writer, session):
    await writer.store.bring_back(session.id)


@pytest.mark.parametrize("use", [using_acquire, using_commit, using_bring_back])
async def test_who_is_used_is_not_idle(writer, raw, prefix, use):
    used = TenantKeys(prefix, TENANT).used
    session = await writer.session(FIRST)
    writer.age = lambda session_id: raw.zadd(used, {session_id: 1})
    assert raw.zscore(used, session.id) >= raw.time()[0] - 60
    writer.age(session.id)
    await use(writer, session)
    assert raw.zscore(used, session.id) >= raw.time()[0] - 60


async def test_looking_at_a_session_is_no_use(writer, raw, prefix):
    used = TenantKeys(prefix, TENANT).used
    session = await writer.session(FIRST)
    raw.zadd(used, {session.id: 1})
    await writer.history(session.id)
    await writer.store.residency(session.id)
    await writer.store.check_integrity()
    await writer.store.recover(older_than=0)
    assert raw.zscore(used, session.id) == 1


async def test_a_fork_is_listed_by_its_own_use_and_a_deleted_session_no_more(writer, raw, prefix):
    used = TenantKeys(prefix, TENANT).used
    session = await writer.session(FIRST)
    fork = await writer.store.fork(session.id)
    assert {one.decode() for one in raw.zrange(used, 0, -1)} == {session.id, fork.id}
    await writer.store.delete_session(session.id)
    assert [one.decode() for one in raw.zrange(used, 0, -1)] == [fork.id]


# ---- deaths ------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["archive", "bring back"])
async def test_a_client_that_dies_at_any_step_loses_nothing(
    server, objects, tmp_path, operation, monkeypatch
):
    """Every round trip of its control connection; test_archive_crashes.py has the copies."""
    monkeypatch.setattr("state_store.archive.archivist._CHUNK_OBJECTS", 3)
    at, finished = 0, False
    while not finished:
        at += 1
        for when in ("before", "after"):
            prefix, folder = f"c{at}{when}{operation[0]}", tmp_path / f"{at}{when}"
            url = f"file://{folder}"
            async with (
                await StateStore.connect(server.url, prefix=prefix, archive=url) as store,
                await StateStore.connect(server.url, prefix=prefix, archive=url) as victim,
            ):
                writer = Writer(store, objects, prefix)
                session = await writer.session(FIRST, SECOND)
                if operation == "bring back":
                    await store.archive_session(session.id)
                trips = Trips(victim)
                trips.crash_at = (when, at)
                move = victim.archive_session if operation == "archive" else victim.bring_back
                try:
                    await move(session.id)
                    finished = trips.count < at
                except StoreError:
                    finished = False
                assert await store.residency(session.id) in ("stored", "archived", "partly")
                await in_order(writer, folder)
                await store.bring_back(session.id)
                assert await store.residency(session.id) == "stored"
                assert await writer.history(session.id) == [*FIRST, *SECOND]
                assert await writer.problems() == []
                await in_order(writer, folder)
                assert files_of(folder) == []
    assert at > 5


async def test_recovery_clears_the_archive_of_what_nobody_holds(writer, folder):
    session = await writer.session(FIRST)
    await writer.store.archive_session(session.id)
    await writer.store.delete_session(session.id)
    assert len(files_of(folder)) == 4 * RANKS
    recovered = await writer.store.recover(older_than=0)
    assert (recovered.collected.condemned, recovered.collected.waiting) == (4, 0)
    assert files_of(folder) == []


async def test_recovery_without_the_archive_says_what_waits_and_keeps_it(
    server, writer, prefix, folder, caplog
):
    session = await writer.session(FIRST)
    await writer.store.archive_session(session.id)
    await writer.store.delete_session(session.id)
    async with await StateStore.connect(server.url, prefix=prefix) as without:
        recovered = await without.recover(older_than=0)
    assert recovered.collected.waiting == 4
    assert "4 archived generations" in caplog.text
    assert len(files_of(folder)) == 4 * RANKS
    assert (await writer.store.recover(older_than=0)).collected.condemned == 4


async def test_without_an_archive_moves_are_refused_and_residency_is_known(
    server, writer, prefix, raw
):
    session = await writer.session(FIRST)
    await writer.store.archive_session(session.id)
    async with await StateStore.connect(server.url, prefix=prefix) as without:
        assert await without.residency(session.id) == "archived"
        for move in (
            without.archive_session(session.id),
            without.bring_back(session.id),
            without.sweep(ArchivePolicy()),
        ):
            with pytest.raises(ArchiveUnavailable, match="--archive"):
                await move
    assert await writer.store.residency(session.id) == "archived"


@pytest.mark.parametrize("url", ["ftp://x/y", "file://relative"])
async def test_a_url_of_no_archive_is_refused_at_once(server, url):
    with pytest.raises(ArchiveRefused):
        await StateStore.connect(server.url, archive=url)


async def test_what_cannot_be_read_keeps_no_other_session_from_the_archive(
    writer, raw, prefix, idle
):
    damaged, whole = [await writer.session(FIRST), await writer.session(SECOND)]
    record = LineageKeys(prefix, lineage_of(damaged.id)).snapshot(damaged.head)
    raw.hset(record, "body", b"\x01?")
    raw.zadd(TenantKeys(prefix, TENANT).used, {"no id": 1})
    raw.zadd(f"{prefix}:{{tenant:no name}}:used", {whole.id: 1})
    for policy in (
        ArchivePolicy(idle=3600),
        ArchivePolicy(tenant_quota_bytes=0, spare=3600),
    ):
        idle(damaged.id, 9000)
        idle(whole.id, 8000)
        report = await writer.store.sweep(policy)
        assert [swept.session_id for swept in report.sessions] == [whole.id]
        told = "\n".join(report.problems)
        assert len(report.problems) == 3
        assert damaged.id in told
        assert "no id" in told
        assert "tenant no name" in told
        assert await writer.store.residency(whole.id) == "archived"
        await writer.store.bring_back(whole.id, whole=True)


async def test_a_sweep_deletes_what_a_deleted_tenant_had_in_the_archive(writer, folder, idle):
    session = await writer.session(FIRST)
    idle(session.id, 9000)
    moved = await writer.store.sweep(ArchivePolicy(idle=3600))
    assert (moved.objects, moved.collected) == (4, 0)
    await writer.store.delete_tenant(TENANT)
    assert any(one.is_file() for one in folder.rglob("*"))
    assert (await writer.store.sweep(ArchivePolicy(idle=3600))).collected == 4
    assert not any(one.is_file() for one in folder.rglob("*"))


async def test_what_is_condemned_under_no_name_keeps_nothing_else_in_the_archive(
    writer, raw, prefix, folder, idle
):
    session = await writer.session(FIRST)
    idle(session.id, 9000)
    await writer.store.sweep(ArchivePolicy(idle=3600))
    await writer.store.delete_session(session.id)
    condemned = raw.keys(f"{prefix}:condemned:*")
    generation = raw.srandmember(condemned[0]).partition(b"@")[0]
    raw.sadd(condemned[0], b"x", generation + b"@x")
    raw.sadd(f"{prefix}:condemned:odd", b"y")
    raw.set(f"{prefix}:condemned:of-a-wrong-type", b"z")
    collected = (await writer.store.recover(older_than=0)).collected
    assert (collected.condemned, collected.waiting) == (len(condemned), 4)
    assert collected.damaged == 4
    assert not [one for one in folder.rglob("*") if one.is_file() and "kv" in str(one)]
