"""A stream is open for no longer than the key that it was opened with stands."""

import asyncio
import contextlib
import json

import httpx
import pytest

from agent_runtime.access import known_keys
from agent_runtime.feed import following
from agent_runtime.service import guard
from tests.runtime.served import listening as serving

from .listening import listening
from .slow import SlowEndpoint

SAYS = {"messages": [{"role": "user", "content": "Hello."}]}
PATIENCE = 30  # seconds; how long it takes decides nothing


@pytest.fixture
def slow():
    """What turns wait for, in the middle of an answer, until the end of the test."""
    endpoint = SlowEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
async def key(store):
    """Of a tenant that is deleted afterwards."""
    await store.tenant("acme")
    yield (await store.keys.create("acme"))[1]
    await store.delete_tenant("acme")
    await store.create_tenant("acme")  # so that the next test may use the name


@pytest.fixture
async def http(settings, slow, key, monkeypatch):
    for module in (guard, known_keys):
        monkeypatch.setattr(module, "KNOWN_FOR", 0.05)
    backend = settings.backend.model_copy(update={"url": slow.url})
    with_keys = settings.model_copy(update={"require_keys": True, "backend": backend})
    async with serving(with_keys) as url:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(
            base_url=url, headers=headers, trust_env=False, timeout=PATIENCE
        ) as client:
            yield client


@pytest.fixture
async def session(http):
    return (await http.post("/v1/sessions", json={})).json()["id"]


async def revoke(store, key):
    await store.keys.revoke("acme", key.split(".")[1])


def mcp_call(session_id):
    arguments = {"session_id": session_id, "message": "Hello."}
    params = {"name": "turn", "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


STREAMS = {
    "events of a session": ("GET", "/v1/sessions/{}/events", lambda _: None, "event: error\n"),
    "turn": ("POST", "/v1/sessions/{}/turns", lambda _: SAYS, "event: error\n"),
    "conversation": ("POST", "/v1/converse", lambda _: SAYS, "event: error\n"),
    "chat completion": (
        "POST",
        "/v1/chat/completions",
        lambda _: {**SAYS, "model": "scripted", "stream": True},
        '"error":',
    ),
    "response": (
        "POST",
        "/v1/responses",
        lambda _: {"model": "scripted", "input": "Hello.", "stream": True},
        "event: response.failed\n",
    ),
    "message": (
        "POST",
        "/v1/messages",
        lambda _: {**SAYS, "model": "scripted", "max_tokens": 9, "stream": True},
        "event: error\n",
    ),
    "tool call over MCP": ("POST", "/mcp", mcp_call, '"isError":true'),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_ends_by_name_when_its_key_is_revoked(store, http, key, session, name):
    method, path, body, words = STREAMS[name]
    headers = {"Accept": "application/json, text/event-stream", "anthropic-version": "2023-06-01"}
    request = http.stream(method, path.format(session), json=body(session), headers=headers)
    async with asyncio.timeout(PATIENCE), request as answer:
        assert answer.status_code == 200
        pieces = answer.aiter_text()
        told = ""
        if name == "tool call over MCP":  # which says nothing before its result
            while (await http.get(f"/v1/sessions/{session}")).json()["turn"] is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        else:
            told = await anext(pieces)
        await revoke(store, key)
        told += "".join([piece async for piece in pieces])
    assert words in told
    assert "unauthorized" in told or "invalid_api_key" in told or "authentication_error" in told
    assert (await http.get("/v1/models")).status_code == 401


async def test_the_turn_of_a_stream_that_ended_so_is_over_and_not_committed(
    store, http, key, session
):
    path = f"/v1/sessions/{session}"
    async with asyncio.timeout(PATIENCE):
        async with http.stream("POST", f"{path}/turns", json=SAYS) as answer:
            pieces = answer.aiter_text()
            await anext(pieces)
            await revoke(store, key)
            async for _ in pieces:
                pass
        _, other = await store.keys.create("acme")
        headers = {"Authorization": f"Bearer {other}"}
        while (now := (await http.get(path, headers=headers)).json())["turn"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert now["head"] is None


@pytest.mark.parametrize("how", ["it expires", "its tenant is deleted"])
async def test_it_ends_however_the_key_is_over(store, http, session, how):
    _, key = await store.keys.create("acme", expires_in=1.0 if how == "it expires" else None)
    headers = {"Authorization": f"Bearer {key}"}
    path = f"/v1/sessions/{session}/events"
    async with asyncio.timeout(PATIENCE), http.stream("GET", path, headers=headers) as answer:
        pieces = answer.aiter_text()
        assert "event: session" in await anext(pieces)
        if how == "its tenant is deleted":
            await store.delete_tenant("acme")
        last = [piece async for piece in pieces][-1]
    if how == "its tenant is deleted":
        await store.create_tenant("acme")
    problem = json.loads(last.partition("data: ")[2])
    assert (last.split("\n")[0], problem["code"]) == ("event: error", "unauthorized")


async def test_streams_of_other_keys_go_on_and_one_look_serves_all_of_a_key(
    store, http, key, session, monkeypatch
):
    _, other = await store.keys.create("acme")
    looked = []
    verified = store.keys.__class__.verified

    async def counting(keys, text):
        looked.append(text)
        return await verified(keys, text)

    path = f"/v1/sessions/{session}/events"
    headers = {"Authorization": f"Bearer {other}"}
    async with contextlib.AsyncExitStack() as opened, asyncio.timeout(PATIENCE):
        kept = await opened.enter_async_context(http.stream("GET", path, headers=headers))
        ended = [await opened.enter_async_context(http.stream("GET", path)) for _ in range(20)]
        lines = kept.aiter_lines()
        await anext(lines)
        monkeypatch.setattr(store.keys.__class__, "verified", counting)
        while len(looked) < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert abs(looked.count(key) - looked.count(other)) <= 1
        await revoke(store, key)
        for stream in ended:
            assert "unauthorized" in (await stream.aread()).decode()
        assert (await http.delete(path.removesuffix("/events"), headers=headers)).is_success
        assert "event: deleted" in [line async for line in lines]


async def test_a_session_that_goes_without_a_word_is_told_to_be_deleted(
    settings, store, monkeypatch
):
    """As where its tenant is deleted, and no keys are asked for."""
    monkeypatch.setattr(following, "_GONE", 0.05)
    async with (
        serving(settings) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE) as http,
    ):
        session = (await http.post("/v1/sessions", json={})).json()["id"]
        async with listening(http, f"/v1/sessions/{session}/events") as stream:
            assert (await stream.next()).name == "session"
            await store.delete_session(session)
            assert (await stream.next()).name == "deleted"
            assert await stream.next() is None
