from __future__ import annotations

import secrets

import pytest
import redis
from author import Author
from sealing import opened
from writer import Writer

from state_store.embedded import EmbeddedServer
from state_store.objects import ObjectClient
from state_store.store import StateStore


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="session")
def server(shared_server):
    """One real server for all tests that neither stop nor configure it."""
    return shared_server


@pytest.fixture(autouse=True)
def nothing_left(request):
    """Empties the shared server: a check walks all keys of one, so what a test leaves there makes
    every later test slower."""
    yield
    if "shared_server" in request.fixturenames:
        with redis.Redis.from_url(request.getfixturevalue("shared_server").url) as client:
            client.flushall()


@pytest.fixture
def own_server(tmp_path):
    """A real server that the test may stop, kill and configure."""
    with EmbeddedServer(tmp_path / "own") as running:
        yield running


@pytest.fixture
def prefix():
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def raw(server):
    """A plain client, for looking behind the store's back and for damaging things."""
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def objects(server):
    client = ObjectClient(server.url, timeout=5.0)
    yield client
    client.close()


@pytest.fixture
async def store(server, prefix):
    async with await StateStore.connect(server.url, prefix=prefix) as opened:
        yield opened


@pytest.fixture
def writer(store, objects, prefix):
    return Writer(store, objects, prefix)


@pytest.fixture
async def author(server, objects, prefix):
    """Writes for two encrypted tenants, ann and ben."""
    async with await opened(server, prefix) as store:
        await store.create_tenant("ann", encrypted=True)
        await store.create_tenant("ben", encrypted=True)
        yield Author(store, objects, prefix)


@pytest.fixture
async def locked(server, prefix, author):
    """A store in a process without the master key."""
    async with await opened(server, prefix, None) as store:
        yield store


@pytest.fixture
def small_batches(monkeypatch):
    """Two objects in a batch, so that pinning and unpinning take several round trips."""
    monkeypatch.setattr("state_store.commit._BATCH", 2)
    monkeypatch.setattr("state_store.garbage._BATCH", 2)
