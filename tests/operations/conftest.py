"""Runtimes over a scripted endpoint: they need no engine, and their turns end at once."""

import json

import httpx
import pytest

from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings
from engine.backends.settings import BackendSettings
from state_store.embedded import EmbeddedServer
from state_store.store import StateStore
from tests.backends.endpoint import DONE, USAGE, Endpoint, Scripted, event


@pytest.fixture(scope="session")
def bare_store(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("operations") / "store") as server:
        yield server


@pytest.fixture(scope="session")
def endpoint():
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture
def script(endpoint):
    """Has the endpoint give these answers next."""

    def add(*texts):
        for text in texts:
            said = event({"content": text}) + event(finish_reason="stop") + USAGE + DONE
            endpoint.scripted.append(Scripted(said))

    yield add
    endpoint.scripted.clear()


@pytest.fixture
def settings(bare_store, endpoint):
    backend = BackendSettings(url=endpoint.url, model="scripted")
    return RuntimeSettings(redis_url=bare_store.url, backend=backend, allowed_hosts="runtime")


@pytest.fixture
async def app(settings):
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def http(app):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://runtime") as client:
        yield client


@pytest.fixture
async def store(bare_store):
    async with await StateStore.connect(bare_store.url) as store:
        yield store


@pytest.fixture
def session(http):
    """Makes a session; a client and what it is to have."""

    async def made(**fields):
        answer = await http.post("/v1/sessions", json=fields)
        assert answer.status_code == 201, answer.text
        return answer

    return made


@pytest.fixture
def turn(http, script):
    """Takes a turn; its result."""

    async def taken(session_id, text="Hello.", *, says="Yes.", headers=None, **fields):
        script(says)
        body = {"messages": [{"role": "user", "content": text}], **fields}
        answer = await http.post(f"/v1/sessions/{session_id}/turns", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        *_, last = answer.text.strip().split("\n\n")
        kind, data = last.split("\n")
        assert kind == "event: result", last
        return json.loads(data.removeprefix("data: "))

    return taken
