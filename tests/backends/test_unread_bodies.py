"""What a body can cost others before anybody knows whose it is: nothing."""

import asyncio
import threading

import httpx
import pytest

from agent_runtime.service import bodies
from agent_runtime.service.bodies import Bodies
from agent_runtime.service.guard import OPEN
from agent_runtime.settings import BodyLimits
from tests.backends.scripted import scripted_runtime


def client_of(app):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://scripted")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/health"), ("GET", "/ready"), ("GET", "/v1/sessions"), ("HEAD", "/v1/sessions/x")],
)
async def test_a_body_is_not_read_where_none_belongs(method, path):
    told, answers = [], []

    async def receive():
        raise AssertionError("the body is read")

    async def send(message):
        answers.append(message)

    async def app(scope, receive, send):
        told.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    headers = [(b"content-type", b"text/plain"), (b"content-length", b"9000000000")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    await Bodies(app, BodyLimits(), open_to_all=OPEN)(scope, receive, send)
    assert told == [{"type": "http.request", "body": b"", "more_body": False}]
    assert answers[0]["headers"] == [(b"connection", b"close")]


async def test_no_body_of_who_has_no_key_is_looked_at(bare_store, said, monkeypatch):
    def looked_at(body):
        raise AssertionError(f"a body of {len(body)} bytes is looked at")

    monkeypatch.setattr(bodies, "flaw_of", looked_at)
    async with (
        scripted_runtime(bare_store.url, said, require_keys=True) as app,
        client_of(app) as http,
    ):
        for path in sorted(OPEN):
            # The console's folder sends on to its page.
            assert (await http.post(path, json=[])).status_code in (307, 405)
        answer = await http.request("GET", "/health", json=[])
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert "connection" not in (await http.get("/health")).headers


async def test_others_are_answered_while_a_large_body_is_looked_at(scripted_app, monkeypatch):
    is_looked_at, others_are_answered = threading.Event(), threading.Event()
    waited = []

    def slow(body):
        is_looked_at.set()
        waited.append(others_are_answered.wait(30))

    monkeypatch.setattr(bodies, "flaw_of", slow)
    async with client_of(scripted_app) as http:
        sending = asyncio.create_task(http.post("/v1/sessions", json={"system": "x" * (1 << 20)}))
        while not is_looked_at.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await http.get("/health")).status_code == 200
        others_are_answered.set()
        await sending
    assert waited == [True]
