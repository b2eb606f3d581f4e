"""A durability level is what the server confirmed, and what survives a crash says so."""

from __future__ import annotations

import os
import socket
import threading

import pytest
import redis
from servers import until
from writer import Writer

from state_store.embedded import EmbeddedServer
from state_store.errors import DurabilityNotReached, NotFound, ServersChanged
from state_store.objects import ObjectClient
from state_store.store import StateStore


@pytest.fixture
async def own_writer(own_server):
    client = ObjectClient(own_server.url, timeout=5.0)
    async with await StateStore.connect(own_server.url, prefix="p") as store:
        yield Writer(store, client, "p")
    client.close()


@pytest.fixture
def own_raw(own_server):
    with redis.Redis.from_url(own_server.url) as client:
        yield client


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("state_store.durability.CONFIRM_TIMEOUT", 0.2)


async def commit(writer, durability):
    session = await writer.session()
    draft = await writer.draft(session.id, range(8))
    writer.put(draft)
    lease = await writer.lease(session.id)
    return await writer.store.commit(draft, lease=lease, durability=durability)


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_a_turn_on_disk_survives_kill_9_of_the_server(tmp_path, fsync):
    server = EmbeddedServer(tmp_path / "own", fsync=fsync)
    server.start()
    client = ObjectClient(server.url, timeout=5.0)
    async with await StateStore.connect(server.url, prefix="p") as store:
        writer = Writer(store, client, "p")
        done = await commit(writer, "fsync")
        assert (done.durability, done.shortfall) == ("fsync", None)
        server.kill()
        server.start()
        assert await store.snapshot(done.snapshot.id) == done.snapshot
        assert await writer.history(done.snapshot.session_id) == list(range(8))
        report = await store.check_integrity()
        assert (report.snapshots, report.objects, report.problems) == (1, 6, [])
    client.close()
    server.stop()


async def test_fsync_is_confirmed_only_once_the_log_was_synced(own_writer, own_raw, impatient):
    own_raw.config_set("appendfsync", "no")
    done = await commit(own_writer, "fsync")
    assert done.durability == "memory"
    assert "fsync was not confirmed" in done.shortfall
    own_raw.config_set("appendfsync", "everysec")
    assert (await commit(own_writer, "fsync")).durability == "fsync"


@pytest.fixture
def syncs(monkeypatch):
    """What was in the logs that were synced by this process."""
    found, sync = [], os.fdatasync

    def spy(log):
        found.append(os.pread(log, 1 << 20, 0))
        sync(log)

    monkeypatch.setattr("os.fdatasync", spy)
    return found


async def test_a_log_on_this_machine_is_synced_with_all_that_was_acknowledged(own_writer, syncs):
    done = await commit(own_writer, "fsync")
    assert done.durability == "fsync"
    (log,) = syncs
    assert done.snapshot.id.encode() in log


async def test_both_files_of_a_log_that_is_rewritten_are_synced(own_writer, own_raw, syncs):
    done = await commit(own_writer, "memory")
    own_raw.config_set("rdb-key-save-delay", 1_000_000)  # microseconds a key: it goes on and on
    own_raw.bgrewriteaof()
    until(lambda: own_raw.info("persistence")["aof_rewrite_in_progress"])
    assert await own_writer.store.confirm("fsync") == "fsync"
    assert any(done.snapshot.id.encode() in log for log in syncs)
    assert len(syncs) == 2


async def test_a_disk_that_does_not_answer_is_not_waited_for_any_longer(
    own_writer, impatient, monkeypatch
):
    freed = threading.Event()
    monkeypatch.setattr("os.fdatasync", lambda log: freed.wait(60))
    with pytest.raises(DurabilityNotReached, match="fsync was not confirmed"):
        await own_writer.store.confirm("fsync")
    assert not freed.is_set()
    freed.set()


@pytest.fixture
async def stranger(own_server, own_raw):
    """A store whose user may not ask where the server's log is."""
    own_raw.execute_command(
        "ACL", "SETUSER", "stranger", "on", ">secret", "~*", "&*", "+@all", "-config"
    )
    async with await StateStore.connect(f"{own_server.url}?username=stranger&password=secret") as s:
        yield s


async def test_a_log_elsewhere_is_waited_for_until_its_server_has_synced_it(stranger, syncs):
    """The server says at once that it has; it does so every second only."""
    assert await stranger.confirm("fsync") == "fsync"
    assert syncs == []


async def test_a_log_elsewhere_is_not_called_synced_before_it_is(stranger, impatient):
    with pytest.raises(DurabilityNotReached, match="fsync was not confirmed"):
        await stranger.confirm("fsync")


async def test_fsync_without_a_log_says_that_it_cannot_be_confirmed(own_writer, own_raw):
    own_raw.config_set("appendonly", "no")
    done = await commit(own_writer, "fsync")
    assert done.durability == "memory"
    assert "fsync cannot be confirmed" in done.shortfall


async def test_replication_without_a_replica_is_reported_and_the_turn_stands(own_writer, impatient):
    done = await commit(own_writer, "replicated:1")
    assert done.durability == "memory"
    assert "reached 0" in done.shortfall
    session = await own_writer.store.session(done.snapshot.session_id)
    assert session.head == done.snapshot.id


async def test_replication_is_confirmed_by_a_replica(own_writer, own_server, own_raw, tmp_path):
    # A unix socket has no address to replicate from, so this server listens for its replica.
    with EmbeddedServer(tmp_path / "replica") as replica:
        port = _listen_on_a_free_port(own_raw)
        with redis.Redis.from_url(replica.url) as raw:
            raw.replicaof("127.0.0.1", port)
        done = await commit(own_writer, "replicated:1")
        assert (done.durability, done.shortfall) == ("replicated:1", None)


def _listen_on_a_free_port(raw):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    raw.config_set("repl-diskless-sync-delay", 0)
    raw.config_set("port", port)
    return port


async def test_what_was_committed_in_memory_can_be_made_durable_later(
    own_writer, own_raw, impatient
):
    await commit(own_writer, "memory")
    assert await own_writer.store.confirm("fsync") == "fsync"
    own_raw.config_set("appendfsync", "no")
    with pytest.raises(DurabilityNotReached):
        await own_writer.store.confirm("fsync")


@pytest.mark.parametrize("level", ["memory", "fsync"])
async def test_what_was_written_since_is_confirmed_while_the_server_runs(own_writer, level):
    store = own_writer.store
    since = await store.watch("fsync")
    await commit(own_writer, "memory")
    assert await store.confirm(level, since=since) == level


@pytest.mark.parametrize("level", ["memory", "fsync", "replicated:1"])
async def test_a_restart_since_is_told_at_every_level(own_writer, own_server, level, impatient):
    store = own_writer.store
    since = await store.watch("fsync")
    await commit(own_writer, "memory")
    own_server.kill()
    own_server.start()
    with pytest.raises(ServersChanged, match="read the head again"):
        await store.confirm(level, since=since)


async def test_what_a_restart_lost_is_not_called_durable(own_writer, own_server, own_raw):
    """Without `since` the level is true of what is there, which is less than was acknowledged."""
    own_raw.config_set("appendfsync", "no")
    own_raw.config_set("appendonly", "no")
    store = own_writer.store
    since = await store.watch("fsync")
    done = await commit(own_writer, "memory")
    own_server.kill()
    own_server.start()
    with pytest.raises(NotFound):
        await store.snapshot(done.snapshot.id)
    assert await store.confirm("fsync") == "fsync"
    with pytest.raises(ServersChanged):
        await store.confirm("fsync", since=since)
    assert await store.confirm("fsync", since=await store.watch("fsync")) == "fsync"


async def test_too_few_replicas_are_told_as_what_they_are(
    own_writer, own_server, own_raw, tmp_path, impatient
):
    with EmbeddedServer(tmp_path / "replica") as replica:
        port = _listen_on_a_free_port(own_raw)
        with redis.Redis.from_url(replica.url) as raw:
            raw.replicaof("127.0.0.1", port)
            until(lambda: raw.info("replication")["master_link_status"] == "up")
        done = await commit(own_writer, "replicated:2")
        assert done.durability == "replicated:1"
        assert "reached 1" in done.shortfall
