"""Paths that are written so that a look at them misses what a route then does."""

import re

import httpx
import pytest

from agent_runtime.service.api import create_app
from agent_runtime.settings import BodyLimits, RuntimeSettings
from engine.backends.settings import BackendSettings
from state_store.store import StateStore
from tests.engine_cpu.server import MODEL


@pytest.fixture
async def app(bare_store, endpoint):
    """The service in this process, asking for keys, with small limits."""
    settings = RuntimeSettings(
        redis_url=bare_store.url,
        model_dir=MODEL,
        backend=BackendSettings(url=endpoint.url, model="scripted"),
        require_keys=True,
        body_limits=BodyLimits(bytes=2000),
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app, bare_store):
    """Makes clients with a key of a role."""

    async def made(tenant, role):
        async with await StateStore.connect(bare_store.url) as store:
            await store.tenant(tenant)
            _, key = await store.keys.create(tenant, role=role)
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://keyed",
            headers={"Authorization": f"Bearer {key}"},
        )

    return made


@pytest.mark.parametrize("ending", ["%0A", "%0D%0A", "%00"])
async def test_a_control_character_behind_a_path_opens_nothing(app, client, ending):
    async with await client("ann", "use") as ann, await client("ben", "use") as ben:
        made = (await ann.post("/v1/sessions", json={"stateless": True})).json()["id"]
        asked = 0
        for path, methods in app.openapi()["paths"].items():
            for method in methods:
                url = re.sub("{session_id}", made, path)
                if url == path and not re.match(
                    "/v1/keys|/metrics|/v1/scheduling|/v1/tenants", path
                ):
                    continue
                answer = await ben.request(method, url + ending, json={"role": "admin"})
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), url
                asked += 1
        assert asked >= 20
        assert (await ann.get(f"/v1/sessions/{made}")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/conversations/import", "/v1/items/import"])
async def test_only_the_import_itself_takes_more_than_a_body_may_have(client, path):
    async with await client("ann", "use") as ann:
        answer = await ann.post(path, json={"metadata": {"much": "x" * 3000}})
        assert answer.status_code == 413
