"""While the store is gone, keys that were looked up lately are good for turns that can go on."""

import asyncio
import contextlib
import time
from types import SimpleNamespace

import httpx
import pytest

from agent_runtime.access import known_keys
from agent_runtime.wire.events import Text
from state_store.embedded import EmbeddedServer
from tests.backends.scripted import scripted_runtime

TURN = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
async def keyed(server, said):
    """The service, where keys are asked for and are looked up each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_keys, "KNOWN_FOR", 0.0)
        async with scripted_runtime(server.url, said, require_keys=True) as app:
            yield app


@pytest.fixture
def outage(server, keyed, monkeypatch):
    """A session that can go on without the store, which is gone."""

    async def reached(session_id, request, *, key=None):
        yield Text(text="it goes on")

    @contextlib.asynccontextmanager
    async def outage(session_id, tenant):
        monkeypatch.setattr(keyed.state.turns, "run", reached)
        standing = {session_id: tenant}
        monkeypatch.setattr(keyed.state.turns.outage, "tenant_of", standing.get)
        monkeypatch.setattr(keyed.state.store._control, "timeout", 0.2)
        await asyncio.to_thread(server.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(server.start)

    return outage


def clock(monotonic, now):
    return SimpleNamespace(monotonic=lambda: monotonic, time=lambda: now)


def client_with(app, key):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"X-Api-Key": key}
    return httpx.AsyncClient(transport=transport, base_url="http://keyed", headers=headers)


async def code_of(client, path, body=TURN):
    """None if it was let in."""
    answer = await client.post(path, json=body)
    return None if answer.status_code == 200 else answer.json()["code"]


async def test_a_turn_goes_on_and_nothing_else_is_let_in(keyed, outage, monkeypatch):
    keys = keyed.state.store.keys
    made = {}
    for name, tenant, options in [
        ("use", "acme", {}),
        ("limited", "acme", {"per_minute": 3}),
        ("read", "acme", {"role": "read"}),
        ("foreign", "other", {}),
        ("unseen", "acme", {}),
    ]:
        made[name] = (await keys.create(tenant, **options))[1]
    clients = {name: client_with(keyed, text) for name, text in made.items()}
    session_id = (await clients["use"].post("/v1/sessions", json={})).json()["id"]
    for name in ("limited", "read", "foreign"):
        assert (await clients[name].get("/v1/sessions")).status_code == 200
    turns = f"/v1/sessions/{session_id}/turns"
    async with outage(session_id, "acme"):
        assert await code_of(clients["use"], turns) is None
        for name in ("read", "foreign", "unseen"):
            assert await code_of(clients[name], turns) == "store_unavailable"
        for path in ("/v1/sessions", f"/v1/sessions/{session_id}/fork", f"{turns}/resume"):
            assert await code_of(clients["use"], path, {}) == "store_unavailable"
        monkeypatch.setattr(known_keys, "time", clock(time.monotonic(), time.time() // 60 * 60 + 1))
        limited = [await code_of(clients["limited"], turns) for _ in range(4)]
        assert limited == [None, None, None, "rate_limited"]
    for client in clients.values():
        await client.aclose()


async def test_a_key_is_good_for_so_long_since_it_was_looked_up(keyed, outage, monkeypatch):
    key, text = await keyed.state.store.keys.create("acme", expires_in=3600)
    at = time.monotonic()
    async with client_with(keyed, text) as client:
        session_id = (await client.post("/v1/sessions", json={})).json()["id"]
        turns = f"/v1/sessions/{session_id}/turns"
        async with outage(session_id, "acme"):
            monkeypatch.setattr(known_keys, "time", clock(at + 590, time.time()))
            assert await code_of(client, turns) is None
            monkeypatch.setattr(known_keys, "time", clock(at + 660, time.time()))
            assert await code_of(client, turns) == "store_unavailable"
            monkeypatch.setattr(known_keys, "time", clock(at, key.expires_at))
            assert await code_of(client, turns) == "store_unavailable"
            monkeypatch.setattr(known_keys, "time", time)
        await keyed.state.store.keys.revoke("acme", key.id)
        assert await code_of(client, turns) == "unauthorized"
        async with outage(session_id, "acme"):  # it was told of
            assert await code_of(client, turns) == "store_unavailable"
