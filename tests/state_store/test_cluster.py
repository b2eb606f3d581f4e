"""The whole store on a cluster of three masters: spread, fenced, counted, moved about in use."""

from __future__ import annotations

import asyncio

import pytest
from servers import Cluster
from writer import RANKS, TENANT

from state_store.connection import Control
from state_store.errors import DurabilityNotReached, LeaseHeld, QuotaExceeded
from state_store.layout import lineage_of
from state_store.quotas import Quota
from state_store.registry import CommandListener, Heartbeat
from state_store.routing import key_slot
from state_store.store import StateStore


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def server(cluster):
    """What the other fixtures open."""
    return cluster


@pytest.fixture
async def control(cluster):
    opened = await Control.connect(cluster.url, timeout=5.0)
    yield opened
    await opened.close()


def keys_by_master(cluster, pattern):
    found = {}
    for member in cluster.masters:
        with member.client() as client:
            found[member] = set(client.scan_iter(pattern, count=1000))
    return found


async def test_pages_spread_over_the_masters_and_a_lineage_lives_in_one_slot(
    cluster, writer, prefix
):
    session = await writer.session(range(400))
    fork = await writer.store.fork(session.id)
    await writer.turn(fork.id, range(1000, 1040))
    pages = keys_by_master(cluster, f"{prefix}:kv:*")
    assert sum(map(len, pages.values())) == 110 * RANKS
    assert all(len(keys) > 110 * RANKS / 6 for keys in pages.values())
    lineage = keys_by_master(cluster, f"{prefix}:{{{lineage_of(session.id)}}}:*")
    assert [bool(keys) for keys in lineage.values()].count(True) == 1
    assert len({key_slot(key) for keys in lineage.values() for key in keys}) == 1
    assert await writer.problems() == []


async def test_a_session_lives_and_dies_as_on_one_server(cluster, writer, prefix):
    session = await writer.session(range(10), range(10, 21))
    fork = await writer.store.fork(session.id)
    await writer.turn(fork.id, range(500, 530))
    assert await writer.history(session.id) == list(range(21))
    assert await writer.history(fork.id) == [*range(21), *range(500, 530)]
    assert {s.id for s in await writer.store.sessions(TENANT)} == {session.id, fork.id}
    report = await writer.store.check_integrity()
    assert (report.sessions, report.snapshots, report.problems) == (2, 3, [])
    for one in (fork, session):
        await writer.store.delete_session(one.id)
        assert await writer.problems() == []
    left = keys_by_master(cluster, f"{prefix}:*")
    pinned = [key for keys in left.values() for key in keys if b":pins:" in key]
    assert pinned == []
    assert await writer.store.sessions(TENANT) == []


async def test_what_is_kept_with_sessions_counts_toward_the_quota_in_whatever_slot_it_is(writer):
    store = writer.store
    sessions = [await writer.session([]) for _ in range(6)]
    for session in sessions[:-1]:
        await store.attachments.put(session, "a", b"123", ttl=60)
    await store.set_quota(TENANT, Quota(bytes=24))
    await store.attachments.put(sessions[-1], "a", b"123", ttl=60)
    assert (await store.usage_report(TENANT)).attached_bytes == 24
    with pytest.raises(QuotaExceeded):
        await store.attachments.put(sessions[0], "b", b"", ttl=60)
    await store.delete_session(sessions[-1].id)
    await store.attachments.put(sessions[0], "b", b"", ttl=60)


async def test_corruption_anywhere_in_the_cluster_is_found(cluster, writer, prefix):
    await writer.session(range(240))  # pages on every master
    for member, keys in keys_by_master(cluster, f"{prefix}:kv:*").items():
        key = min(keys)
        with member.client() as client:
            value = bytearray(client.get(key))
            value[-1] ^= 1
            client.set(key, bytes(value))
    assert len(await writer.problems()) == 3


async def test_only_one_of_two_writers_holds_a_lease(writer, store):
    session = await writer.session()
    await writer.lease(session.id)
    with pytest.raises(LeaseHeld):
        await store.acquire(session.id, ttl=5, owner="other")


async def test_engines_and_runtimes_find_each_other(cluster, store, prefix, monkeypatch):
    monkeypatch.setattr("state_store.registry.POLL", 0.1)
    beats = [
        Heartbeat(cluster.url, f"e{n}", {"boot_id": f"e{n}"}, ttl=2.0, prefix=prefix)
        for n in range(6)
    ]
    listener = CommandListener(
        cluster.url, "e0", 0, {"echo": lambda payload: payload}, prefix=prefix
    )
    for thread in (*beats, listener):
        thread.start()
    try:
        while len(await store.engines()) < 6:  # noqa: ASYNC110 - heartbeats tell nobody of us
            await asyncio.sleep(0.02)
        calls = [store.send_command("e0", 1, "echo", {"n": n}, timeout=5.0) for n in range(8)]
        assert await asyncio.gather(*calls) == [[{"n": n}] for n in range(8)]
    finally:
        for thread in (*beats, listener):
            thread.stop()
    assert await store.engines() == []


async def test_fsync_is_confirmed_by_every_master(cluster, writer, monkeypatch):
    session = await writer.session()
    draft = await writer.draft(session.id, range(8))
    writer.put(draft)
    lease = await writer.lease(session.id)
    monkeypatch.setattr("state_store.durability.CONFIRM_TIMEOUT", 0.3)
    done = await writer.store.commit(draft, lease=lease, durability="fsync")
    assert (done.durability, done.shortfall) == ("fsync", None)
    for member in cluster.masters:
        with member.client() as client:
            client.config_set("appendfsync", "no")
            try:
                with pytest.raises(Exception, match="fsync was not confirmed"):
                    await writer.store.confirm("fsync")
            finally:
                client.config_set("appendfsync", "everysec")
    assert await writer.store.confirm("fsync") == "fsync"


async def test_a_scan_finds_every_key_of_every_master(cluster, control, prefix):
    keys = {f"{prefix}:{n}".encode() for n in range(3000)}
    async with control.guard() as client:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.set(key, 1)
        await pipeline.execute()
    found = [key async for batch in control.scan(f"{prefix}:*") for key in batch]
    assert set(found) == keys
    held = keys_by_master(cluster, f"{prefix}:*")
    assert all(held.values())


async def test_replication_is_confirmed_only_if_every_master_has_the_replicas(
    tmp_path, prefix, monkeypatch
):
    monkeypatch.setattr("state_store.durability.CONFIRM_TIMEOUT", 2.0)
    with Cluster(tmp_path, replicas=True) as cluster:
        async with await StateStore.connect(cluster.url, prefix=prefix) as store:
            assert await store.confirm("replicated:1") == "replicated:1"
            with pytest.raises(DurabilityNotReached, match="reached 1"):
                await store.confirm("replicated:2")
            cluster.replicas[1].stop()
            with pytest.raises(DurabilityNotReached, match="reached 0"):
                await store.confirm("replicated:1")
