"""A tenant that has as much as it may have is refused before anything is generated."""

import asyncio

import httpx
import openai
import pytest

from agent_runtime.langchain.retrying import asked_again
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.wire.messages import Message
from state_store.layout import TenantKeys
from state_store.quotas import Quota
from tests.backends.scripted import says

ASKED = [{"role": "user", "content": "Hello."}]


@pytest.fixture
async def asked(scripted_app):
    """An HTTP client of the runtime, and the paths that it was asked."""
    seen = []

    class Counting(httpx.ASGITransport):
        async def handle_async_request(self, request):
            seen.append(request.url.path)
            return await super().handle_async_request(request)

    transport = Counting(scripted_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://scripted") as http:
        yield http, transport, seen


@pytest.fixture
async def full(store):
    """The tenant may have nothing more, whatever it has."""
    await store.set_quota("default", Quota(tokens=1))
    yield store
    await store.set_quota("default", Quota())


async def test_a_turn_is_not_generated(asked, said, store):
    _, transport, _ = asked
    async with Torpor("http://scripted", transport=transport) as torpor:
        session = await torpor.create()
        said.scripted.append(says({"content": "Yes."}))
        await torpor.turn(session.id, "Hello.")
        before = await torpor.get(session.id)
        generated = len(said.seen)
        await store.set_quota("default", Quota(tokens=1))
        try:
            with pytest.raises(ApiError, match="nothing was begun") as refused:
                await torpor.turn(session.id, "And now?")
        finally:
            await store.set_quota("default", Quota())
        assert (refused.value.status, refused.value.code) == (429, "quota_exceeded")
        assert len(said.seen) == generated
        assert await torpor.get(session.id) == before


async def test_a_prompt_that_alone_exceeds_the_rest_is_not_answered(asked, said, store):
    _, transport, _ = asked
    async with Torpor("http://scripted", transport=transport) as torpor:
        session = await torpor.create()
        usage = await store.usage_report("default")
        await store.set_quota("default", Quota(tokens=usage.tokens + 100))
        try:
            with pytest.raises(ApiError, match="would add at least"):
                await torpor.turn(session.id, "a" * 1000)
            said.scripted.append(says({"content": "Yes."}))
            assert (await torpor.turn(session.id, "Hello.")).text == "Yes."
        finally:
            await store.set_quota("default", Quota())


async def test_openais_client_does_not_repeat_it(asked, said, full):
    http, _, seen = asked
    client = openai.AsyncOpenAI(
        base_url="http://scripted/v1", api_key="k", http_client=http, max_retries=2
    )
    with pytest.raises(openai.RateLimitError) as refused:
        await client.chat.completions.create(model="scripted", messages=ASKED)
    assert refused.value.code == "quota_exceeded"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert (len(seen), said.seen) == (1, [])


async def test_anthropics_client_is_told_not_to_repeat_it(asked, said, full):
    http, _, _ = asked
    body = {"model": "scripted", "messages": ASKED, "max_tokens": 9}
    version = {"anthropic-version": "2023-06-01"}
    answer = await http.post("/v1/messages", json=body, headers=version)
    assert answer.status_code == 429, answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert said.seen == []


async def test_langchain_does_not_repeat_it(asked, said, full):
    _, transport, _ = asked
    async with Torpor("http://scripted", transport=transport) as torpor:
        attempts = []

        async def ask():
            attempts.append(torpor)
            yield await torpor.converse([Message(role="user", content="Hello.")])

        with pytest.raises(ApiError, match="may have"):
            _ = [piece async for piece in asked_again(ask, retries=2)]
    assert (len(attempts), said.seen) == (1, [])


async def test_a_request_that_is_kept_while_it_is_answered_counts_as_long(asked, said, store):
    http, _, _ = asked
    await store.set_quota("default", Quota(bytes=1 << 40))
    await store.notes.put("default", "any", b"", ttl=1)
    async with store._control.guard() as client:
        sums = await client.hget(TenantKeys("torpor", "default").usage, "sum")
    await store.set_quota("default", Quota(bytes=int(sums.split(b":")[0]) + 50_000))
    try:
        path, body = "/v1/responses", {"model": "scripted", "background": True}
        refused = await http.post(path, json={**body, "input": "x" * 60_000})
        assert (refused.status_code, "may have" in refused.text) == (429, True), refused.text
        said.scripted.append(says({"content": "Yes."}))
        made = await http.post(path, json={**body, "input": "Hello."})
        assert made.status_code == 200, made.text
        for _ in range(1000):
            found = (await http.get(f"{path}/{made.json()['id']}")).json()
            if found["status"] == "completed":
                break
            await asyncio.sleep(0.02)
        assert found["status"] == "completed", found
    finally:
        await store.set_quota("default", Quota())
