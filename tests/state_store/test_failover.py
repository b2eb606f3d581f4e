"""A master dies under a live writer: every turn happened or was refused by name, none is torn."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from servers import Cluster, Sentinels, until
from writer import TENANT, Writer

from state_store.connection import Control
from state_store.errors import (
    DurabilityNotReached,
    HeadMoved,
    LeaseHeld,
    LeaseLost,
    NotFound,
    ObjectsMissing,
    StoreUnavailable,
)
from state_store.layout import lineage_of
from state_store.objects import ObjectClient
from state_store.routing import key_slot
from state_store.store import StateStore
from state_store.vault import Vault

PATIENCE = 30.0  # seconds; a failover takes a few
REFUSALS = (LeaseHeld, LeaseLost, HeadMoved, NotFound, ObjectsMissing, StoreUnavailable)


@pytest.fixture(autouse=True)
def brief_waits(monkeypatch):
    """For replicas that are not there any more."""
    monkeypatch.setattr("state_store.durability.CONFIRM_TIMEOUT", 0.5)


@contextlib.asynccontextmanager
async def writer_of(url, prefix, *, timeout=PATIENCE):
    client = ObjectClient(url, timeout=timeout)
    async with StateStore(Control(url, timeout=timeout), prefix, Vault()) as store:
        yield Writer(store, client, prefix)
    client.close()


class LiveWriter:
    """Commits one turn after another to one session, each to be held by a replica too, and now
    and then forks it and deletes the fork.

    after:   tokens of the history after each head that there may have been
    certain: how many tokens a replica is known to have
    """

    def __init__(self, writer: Writer, session_id: str) -> None:
        self.writer = writer
        self.session_id = session_id
        self.after: list[list[int]] = [[]]
        self.certain = 0
        self.committed = 0
        self.refused: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                await self._turn(number)
            except REFUSALS as error:
                self.refused.add(type(error).__name__)
                await asyncio.sleep(0.02)  # a lease that is lost track of has to expire

    async def _turn(self, number: int) -> None:
        store = self.writer.store
        before = await self.writer.history(self.session_id)
        assert before in self.after  # nothing that was never committed, nothing torn
        assert len(before) >= self.certain
        draft = await self.writer.draft(self.session_id, [number] * 6)
        self.after.append(before + [number] * 6)
        await asyncio.to_thread(self.writer.put, draft)
        lease = await self.writer.lease(self.session_id, ttl=2)
        done = await store.commit(draft, lease=lease, durability="replicated:1")
        await store.release(lease)
        self.committed += 1
        if done.durability == "replicated:1":
            self.certain = done.snapshot.total_tokens
        if number % 4 == 0:
            fork = await store.fork(self.session_id)
            await store.delete_session(fork.id)


def move_objects(client, stop):
    """Write objects and read them back: some are lost with a master, none is wrong, and the
    client waits for the next master by itself."""
    number = 0
    while not stop.is_set():
        number += 1
        values = {f"bulk:{number}:{n}".encode(): bytes([n]) * 200_000 for n in range(8)}
        client.put([(key, memoryview(value)) for key, value in values.items()], ttl=60)
        into = {key: memoryview(bytearray(200_000)) for key in values}
        for (key, value), size in zip(
            values.items(), client.get_into(list(into.items())), strict=True
        ):
            assert size is None or into[key] == value


async def live_through(writer, kill, replaced):
    """Write while a server is killed and until some time after another has taken its place."""
    session = await writer.session()
    live, stop = LiveWriter(writer, session.id), asyncio.Event()
    writing = asyncio.create_task(live.run(stop))
    moving = asyncio.create_task(asyncio.to_thread(move_objects, writer.client, stop))

    async def more(turns):
        wanted = live.committed + turns
        while live.committed < wanted:
            assert not writing.done(), writing.result()
            assert not moving.done(), moving.result()
            await asyncio.sleep(0.01)

    await more(5)
    await asyncio.to_thread(kill, session.id)
    await asyncio.to_thread(replaced, session.id)
    await more(8)
    stop.set()
    await writing
    await moving
    assert live.certain > 0
    history = await writer.history(session.id)
    assert history in live.after
    assert len(history) >= live.certain
    await writer.store.recover(older_than=0)
    assert await writer.problems() == []
    for one in await writer.store.sessions(TENANT):
        await writer.store.delete_session(one.id)
    await writer.store.recover(older_than=0)
    report = await writer.store.check_integrity()
    assert (report.sessions, report.snapshots, report.problems) == (0, 0, [])


async def test_a_writer_lives_through_a_failover_of_sentinels(tmp_path, prefix):
    with Sentinels(tmp_path) as servers:
        async with writer_of(servers.url, prefix) as writer:
            await live_through(
                writer,
                lambda _: servers.primary.kill(),
                lambda _: servers.wait_for_failover(),
            )


@pytest.mark.slow
async def test_a_writer_lives_through_the_death_of_a_clusters_master(tmp_path, prefix):
    with Cluster(tmp_path, replicas=True) as cluster:
        async with writer_of(cluster.url, prefix) as writer:
            slots = cluster.slots()

            def kill(session_id):
                master_of(session_id, slots).kill()

            def replaced(session_id):
                old = master_of(session_id, slots)
                until(lambda: master_of(session_id, cluster.slots()) is not old, timeout=30)

            await live_through(writer, kill, replaced)


def master_of(session_id, slots):
    return slots[key_slot(f"{{{lineage_of(session_id)}}}".encode())]


async def test_a_master_without_a_replica_is_missed_by_name_and_welcome_back(tmp_path, prefix):
    with Cluster(tmp_path) as cluster:
        async with writer_of(cluster.url, prefix) as writer:
            session = await writer.session(range(6))
            draft = await writer.draft(session.id, range(6, 13))
            writer.put(draft)
            lease = await writer.lease(session.id, ttl=300)
            assert await writer.store.confirm("fsync") == "fsync"
            master = master_of(session.id, cluster.slots())
            master.kill()
            async with writer_of(cluster.url, prefix, timeout=1.0) as impatient:
                with pytest.raises(StoreUnavailable):
                    await impatient.history(session.id)
                with pytest.raises(StoreUnavailable):
                    await impatient.store.commit(draft, lease=lease, durability="memory")
                there = f"{prefix}:{{{lineage_of(session.id)}}}:object".encode()
                with pytest.raises(StoreUnavailable):
                    impatient.client.put([(there, memoryview(b"value"))], ttl=60)
            master.start()
            await writer.store.commit(draft, lease=lease, durability="memory")
            assert await writer.history(session.id) == list(range(13))
            await writer.store.recover(older_than=0)
            assert await writer.problems() == []


async def test_what_a_silent_master_held_is_asked_of_the_replica_that_took_its_place(
    tmp_path, prefix
):
    """Nothing is refused and no other server says so: the map is asked for."""
    key = f"{prefix}:key".encode()
    with Cluster(tmp_path, replicas=True) as cluster:
        master = cluster.slots()[key_slot(key)]
        client = ObjectClient(cluster.url, timeout=1.0)
        client.put([(key, memoryview(b"value"))], ttl=600)
        async with await StateStore.connect(cluster.url, prefix=prefix) as store:
            assert await store.confirm("replicated:1") == "replicated:1"
        master.pause()
        others = [member for member in cluster.members if member is not master]
        until(lambda: cluster.slots(asked=others)[key_slot(key)] is not master, timeout=30)
        assert client.exists([key]) == [True]
        client.close()
        client = ObjectClient(cluster.url, timeout=1.0)
        client.ping()
        client.close()


async def test_a_master_that_lacks_its_replicas_is_waited_for_by_all_that_write(tmp_path, prefix):
    """As one is that was cut off from them, or is about to get new ones."""
    value = [(f"{prefix}:key".encode(), memoryview(b"value"))]
    with Sentinels(tmp_path) as servers, servers.primary.client() as primary:
        primary.config_set("min-replicas-to-write", 2)
        client = ObjectClient(servers.url, timeout=0.3)
        with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
            client.put(value, ttl=60)
        client.close()
        async with writer_of(servers.url, prefix) as writer:
            put = asyncio.create_task(asyncio.to_thread(writer.client.put, value, ttl=60))
            session = asyncio.create_task(writer.session())
            await asyncio.sleep(0.3)
            assert not put.done()
            assert not session.done()
            primary.config_set("min-replicas-to-write", 0)
            await put
            await session


def cut_off_replica(primary):
    """The replica gets no more writes, and cannot connect again."""
    with primary.client() as client:
        client.execute_command("ACL SETUSER default -psync -sync")
        client.execute_command("CLIENT KILL TYPE REPLICA")


async def test_what_a_failover_lost_is_not_called_durable(tmp_path, prefix):
    with Sentinels(tmp_path) as servers:
        async with writer_of(servers.url, prefix) as writer:
            session = await writer.session(range(6))
            assert await writer.store.confirm("replicated:1") == "replicated:1"
            cut_off_replica(servers.primary)
            since = await writer.store.watch("replicated:1")
            draft = await writer.draft(session.id, range(6, 13))
            writer.put(draft)
            lease = await writer.lease(session.id)
            done = await writer.store.commit(draft, lease=lease, durability="replicated:1")
            assert done.durability == "memory"
            assert "reached 0" in done.shortfall
            servers.primary.kill()
            servers.wait_for_failover()
            assert await writer.history(session.id) == list(range(6))
            for level in ("fsync", "replicated:1"):
                with pytest.raises(DurabilityNotReached):
                    await writer.store.confirm(level, since=since)
            assert await writer.store.confirm("fsync") == "fsync"  # of what is there
            with pytest.raises(NotFound):
                await writer.store.snapshot(done.snapshot.id)
            # The lease is lost as well; the objects are, and are stored again.
            await writer.turn(session.id, range(6, 13))
            assert await writer.history(session.id) == list(range(13))
            await writer.store.recover(older_than=0)
            assert await writer.problems() == []
