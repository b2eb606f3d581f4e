"""`/docs` names every operation, runs nothing and loads nothing, with keys and without."""

import re

import httpx
import pytest

from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings
from engine.backends.settings import BackendSettings


@pytest.fixture(params=[False, True], ids=["without keys", "with keys"])
def with_keys(request):
    return request.param


@pytest.fixture
def app(with_keys):
    backend = BackendSettings(url="http://nowhere/v1", model="m")
    return create_app(
        RuntimeSettings(redis_url="redis://nowhere", backend=backend, require_keys=with_keys)
    )


@pytest.fixture
async def client(app):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8700") as client:
        yield client


async def test_the_page_names_every_operation_and_how_to_send_a_key(app, client, with_keys):
    page = await client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    listed = re.findall(r"<tr><td>(\w+)</td><td><code>(.*?)</code></td><td>(.+?)</td>", page.text)
    document = app.openapi()
    assert {(method.lower(), path) for method, path, _ in listed} == {
        (method, path) for path, methods in document["paths"].items() for method in methods
    }
    assert ("Authorization: Bearer KEY" in page.text) == with_keys
    schemes = document["components"].get("securitySchemes", {})
    assert {scheme["type"] for scheme in schemes.values()} == (
        {"http", "apiKey"} if with_keys else set()
    )
    if with_keys:
        assert document["paths"]["/v1/sessions"]["get"]["security"] == [{"key": []}, {"header": []}]


async def test_the_page_runs_no_script_and_loads_nothing(client):
    page = await client.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"-src (?!'none')", page.headers["content-security-policy"])
    assert not re.search(r"<script|<link|<img|<style|style=|src=|\bon\w+=", page.text)
    assert page.headers["x-content-type-options"] == "nosniff"
    assert (await client.get("/redoc")).status_code in (401, 404)


@pytest.mark.parametrize("with_keys", [True])  # without, such a host is refused
async def test_a_host_that_names_markup_stays_text(client):
    page = await client.get("/docs", headers={"Host": "a'><script>alert(1)</script>"})
    assert "<script" not in page.text
