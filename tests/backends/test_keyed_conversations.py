"""Requests with one key that come at the same time, or after it has expired: one answer each."""

import asyncio

import pytest

from agent_runtime.errors import StillRunning
from agent_runtime.wire.messages import Message
from agent_runtime.wire.sessions import CreateSession
from agent_runtime.wire.turns import ConversationRequest, TurnRequest
from engine.errors import EngineRefused
from tests.backends.endpoint import Endpoint, Scripted
from tests.backends.scripted import forget, says, scripted_runtime


@pytest.fixture
def endpoint():
    running = Endpoint(always=says({"content": "Hello"}))
    yield running
    running.close()


@pytest.fixture
async def apps(bare_store, endpoint):
    """Two runtimes over one store."""
    async with (
        scripted_runtime(bare_store.url, endpoint) as one,
        scripted_runtime(bare_store.url, endpoint) as other,
    ):
        yield one, other


def said(*texts):
    roles = ("user", "assistant")
    return [Message(role=roles[n % 2], content=text) for n, text in enumerate(texts)]


async def result_of(events):
    *_, result = [event async for event in events]
    return result


async def at_once(apps, request, key):
    """The results of three requests to each runtime; all others were told to wait."""
    asked = [
        result_of(app.state.conversations.run(request, key=key)) for _ in range(3) for app in apps
    ]
    results = await asyncio.gather(*asked, return_exceptions=True)
    for one in results:
        if isinstance(one, BaseException) and not isinstance(one, StillRunning):
            raise one
    return [one for one in results if not isinstance(one, StillRunning)]


async def test_a_conversation_that_many_ask_for_at_once_is_answered_once(apps, endpoint):
    store = apps[0].state.store
    for number in range(10):
        before = {one.id for one in await store.sessions("default")}
        endpoint.seen.clear()
        request = ConversationRequest(messages=said(f"at once {number}"))
        results = await at_once(apps, request, f"once {number}")
        assert {one.session_id for one in results} == {
            one.id for one in await store.sessions("default")
        } - before
        assert len({one.snapshot for one in results}) == 1
        assert len(endpoint.seen) == 1


async def test_so_it_is_in_a_fork_where_its_session_has_gone_on(apps, endpoint, monkeypatch):
    store, conversations = apps[0].state.store, apps[0].state.conversations
    for number in range(10):
        opening = f"forked {number}"
        first = await result_of(conversations.run(ConversationRequest(messages=said(opening))))
        for text in ("another way", "at once"):
            before = {one.id for one in await store.sessions("default")}
            endpoint.seen.clear()
            request = ConversationRequest(messages=said(opening, "Hello", text))
            results = await at_once(apps, request, f"{text} {number}")
            made = {one.id for one in await store.sessions("default")} - before
            assert len({one.session_id for one in results}) == 1
            assert {one.session_id for one in results} == (made or {first.session_id})
            assert len(endpoint.seen) == 1
        assert len(made) == 1


async def test_a_key_that_has_expired_is_no_answer_to_another_request(apps, endpoint):
    app, _ = apps
    session = await app.state.sessions.create(CreateSession())

    async def turn(text):
        request = TurnRequest(messages=said(text))
        return await result_of(app.state.turns.run(session.id, request, key="daily"))

    endpoint.scripted.append(says({"content": "One"}))
    first = await turn("one")
    await forget(app, "daily")
    endpoint.scripted.append(Scripted("no", status=400))
    with pytest.raises(EngineRefused):
        await turn("two")
    endpoint.scripted.append(says({"content": "Two"}))
    second = await turn("two")
    assert (second.text, second.replayed, second.parent) == ("Two", False, first.snapshot)
    assert (await turn("two")).replayed


async def test_nor_is_an_answer_from_before_to_the_same_request(bare_store, endpoint):
    """It is said again, as was asked for: the key speaks of this time."""
    async with scripted_runtime(bare_store.url, endpoint, request_ttl=1.0) as app:
        session = await app.state.sessions.create(CreateSession())
        request = TurnRequest(messages=said("again"))
        first = await result_of(app.state.turns.run(session.id, request, key="daily again"))
        await asyncio.sleep(1.5)
        endpoint.scripted.append(Scripted("no", status=400))
        with pytest.raises(EngineRefused):
            await result_of(app.state.turns.run(session.id, request, key="daily again"))
        second = await result_of(app.state.turns.run(session.id, request, key="daily again"))
        assert (second.replayed, second.parent) == (False, first.snapshot)
