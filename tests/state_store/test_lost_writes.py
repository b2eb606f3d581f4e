"""A server that comes back without its last writes in the middle of a commit: no commit with holes.

Whatever was acknowledged before one round trip is lost before a later one, for every two of them.
"""

from __future__ import annotations

import shutil

import pytest
import redis
from servers import until
from writer import RANKS, Trips, Writer

from state_store.embedded import EmbeddedServer
from state_store.errors import (
    DurabilityNotReached,
    LeaseLost,
    NotFound,
    ObjectsMissing,
    StoreUnavailable,
)
from state_store.objects import ObjectClient
from state_store.store import StateStore

BASE, TURN = list(range(8)), list(range(8, 20))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Two objects in a batch, so that pinning takes several round trips."""
    monkeypatch.setattr("state_store.commit._BATCH", 2)
    monkeypatch.setattr("state_store.garbage._BATCH", 2)


class Forgetful:
    """A server that can go back to what it was."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self._log = server.data_dir / "appendonlydir"
        self._kept = server.data_dir / "kept"

    async def keep(self) -> None:
        with redis.Redis.from_url(self._server.url) as raw:  # while it syncs, it writes nothing
            until(lambda: raw.info("persistence")["aof_buffer_length"] == 0)
        shutil.rmtree(self._kept, ignore_errors=True)
        shutil.copytree(self._log, self._kept)

    async def go_back(self) -> None:
        self._server.kill()
        shutil.rmtree(self._log)
        shutil.copytree(self._kept, self._log)
        self._server.start()


@pytest.fixture
def forgetful(own_server):
    return Forgetful(own_server)


@pytest.fixture
def client(own_server):
    opened = ObjectClient(own_server.url, timeout=5.0)
    yield opened
    opened.close()


async def commit_while_forgetting(server, client, forgetful, prefix, kept_at, lost_at):
    """What a commit came to, its history then, and whether it was disturbed at all. The server
    forgets before trip `lost_at` what it did since trip `kept_at` (0: before the objects)."""
    async with (
        await StateStore.connect(server.url, prefix=prefix) as store,
        await StateStore.connect(server.url, prefix=prefix) as victim,
    ):
        writer = Writer(store, client, prefix)
        session = await writer.session(BASE)
        lease = await writer.lease(session.id, ttl=300)
        draft = await writer.draft(session.id, TURN)
        await victim.fingerprint(draft.fingerprint_id)
        if not kept_at:
            await forgetful.keep()
        writer.put(draft)
        trips = Trips(victim)

        async def lose():
            await forgetful.go_back()

        async def keep():
            await forgetful.keep()
            trips.between = (lost_at, lose)

        trips.between = (kept_at, keep) if kept_at else (lost_at, lose)
        outcome = "committed"
        try:
            await victim.commit(draft, lease=lease, durability="fsync")
        except (StoreUnavailable, LeaseLost, ObjectsMissing, NotFound) as error:
            outcome = type(error).__name__
        disturbed = trips.between is None
        history = await writer.history(session.id)
        assert history in (BASE, BASE + TURN)
        if outcome == "committed":
            assert history == BASE + TURN
        await store.recover(older_than=0)
        if outcome != "committed" and history == BASE + TURN:
            assert outcome == "StoreUnavailable"  # which says to look again
            return outcome, disturbed
        report = await store.check_integrity()
        assert report.problems == []
        assert report.objects == (3 + (4 if history == BASE + TURN else 0)) * RANKS
        return outcome, disturbed


@pytest.mark.slow
async def test_a_commit_amid_lost_writes_is_whole_or_named(own_server, client, forgetful):
    outcomes = set()
    kept_at, lasting = 0, True
    while lasting:
        lost_at, disturbed = kept_at + 1, True
        while disturbed:
            outcome, disturbed = await commit_while_forgetting(
                own_server, client, forgetful, f"p{kept_at}-{lost_at}", kept_at, lost_at
            )
            outcomes.add(outcome)
            lost_at += 1
        lasting = lost_at > kept_at + 2
        kept_at += 1
    assert kept_at > 5
    assert outcomes == {"committed", "StoreUnavailable", "LeaseLost", "ObjectsMissing"}


async def test_what_a_restart_may_have_lost_is_not_called_durable(own_server, client, forgetful):
    async with await StateStore.connect(own_server.url, prefix="p") as store:
        writer = Writer(store, client, "p")
        session = await writer.session(BASE)
        await forgetful.keep()
        servers = await store.watch("fsync")
        await writer.turn(session.id, TURN)
        await forgetful.go_back()
        with pytest.raises(DurabilityNotReached, match="restarted"):
            await store.confirm("fsync", since=servers)
        assert await writer.history(session.id) == BASE
        servers = await store.watch("fsync")
        await writer.turn(session.id, TURN)
        assert await store.confirm("fsync", since=servers) == "fsync"
