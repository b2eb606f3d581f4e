"""A conversation whose answer fails leaves no session behind."""

import asyncio
import contextlib
import secrets

import pytest

from agent_runtime.errors import StillRunning
from agent_runtime.feed.posting import Feed
from agent_runtime.scheduling.residency import Residency
from agent_runtime.sessions.conversations import Conversations
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.stateless import Stateless
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.events import Text
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import ConversationRequest, TurnResult
from engine.backends.chat import Backend
from engine.backends.settings import BackendSettings
from engine.errors import EngineError
from engine.pool import EnginePool
from state_store.embedded import EmbeddedServer
from state_store.errors import StoreUnavailable
from state_store.store import StateStore
from tests.backends.endpoint import DONE, USAGE, Endpoint, Scripted, event

HELLO = Scripted(event({"content": "Hello."}, finish_reason="stop") + USAGE + DONE)
BAD = Scripted("no", status=400)
ASKED = [Message(role="user", content="Hi")]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
async def store(server):
    async with await StateStore.connect(server.url, prefix=f"t{secrets.token_hex(4)}") as opened:
        yield opened


@pytest.fixture
def scripted():
    endpoint = Endpoint()
    yield endpoint.scripted, endpoint.url
    endpoint.close()


@pytest.fixture
async def converse(server, store, scripted):
    """Yields the events of one more answer."""
    answers, url = scripted
    backend = Backend(BackendSettings(url=url, model="m"))
    settings = RuntimeSettings(redis_url=server.url, backend=backend.settings)
    pool, residency = EnginePool(store), Residency()
    feed = Feed(store)
    turns = Turns(
        store, pool, None, residency, settings, Stateless(store, backend, only=True), feed
    )
    sessions = Sessions(store, pool, turns, residency, settings, feed)
    conversations = Conversations(store, sessions, turns, settings)

    def converse(said, answer, key=None):
        answers.append(answer)
        return conversations.run(ConversationRequest(messages=said), key=key)

    yield converse
    await turns.close()
    await feed.close()
    await pool.close()
    await backend.close()


async def result_of(events):
    (result,) = [event async for event in events if isinstance(event, TurnResult)]
    return result


@pytest.fixture(params=[None, "k"], ids=["without a key", "with a key"])
def key(request):
    return request.param


async def test_a_new_session_goes_when_its_first_answer_fails(converse, store, key):
    with pytest.raises(EngineError):
        await result_of(converse(ASKED, BAD, key))
    assert await store.sessions("default") == []
    result = await result_of(converse(ASKED, HELLO, key))  # sent again
    assert [one.id for one in await store.sessions("default")] == [result.session_id]


async def test_a_branch_goes_when_its_answer_fails_and_the_session_stays(converse, store, key):
    first = await result_of(converse(ASKED, HELLO))
    answer = Message(role="assistant", content=first.text)
    more = [*ASKED, answer, Message(role="user", content="More")]
    moved = await result_of(converse(more, HELLO))
    with pytest.raises(EngineError):
        await result_of(converse([*more[:2], Message(role="user", content="Other")], BAD, key))
    (left,) = await store.sessions("default")
    assert (left.id, left.head) == (first.session_id, moved.snapshot)

    said = [*more, answer, Message(role="user", content="Again")]
    with pytest.raises(EngineError):  # nor does the session go with an answer of its own
        await result_of(converse(said, BAD))
    assert [one.head for one in await store.sessions("default")] == [moved.snapshot]


async def test_a_new_session_goes_when_nobody_listens_to_its_first_answer(converse, store, key):
    async with contextlib.aclosing(converse(ASKED, HELLO, key)) as events:
        assert isinstance(await anext(events), Text)
    assert await store.sessions("default") == []


async def test_a_session_goes_although_nobody_waits_for_its_lease(
    converse, store, key, monkeypatch
):
    """As when the client has gone, and every wait of its request is cancelled at once."""
    release, releasing, go_on = store.release, asyncio.Event(), asyncio.Event()

    async def slow(lease):
        releasing.set()
        await go_on.wait()
        await release(lease)

    monkeypatch.setattr(store, "release", slow)
    begun = asyncio.Event()

    async def listening():
        async with contextlib.aclosing(converse(ASKED, HELLO, key)) as events:
            await anext(events)
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(listening())
    await begun.wait()
    task.cancel()
    await releasing.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait([task])
    await until_empty(store)


async def until_empty(store):
    for _ in range(1000):
        if not await store.sessions("default"):
            return
        await asyncio.sleep(0.01)
    pytest.fail("left over")


async def test_a_session_stays_that_a_retry_with_the_key_is_at_work_in(converse, store):
    async with contextlib.aclosing(converse(ASKED, HELLO, "k")) as first:
        await anext(first)
        with pytest.raises(StillRunning):
            async for _ in converse(ASKED, HELLO, "k"):
                pass
        (result,) = [event async for event in first if isinstance(event, TurnResult)]
    assert (await store.session(result.session_id)).head == result.snapshot


async def test_an_answer_is_given_although_it_cannot_be_noted(converse, store, monkeypatch):
    put = store.notes.put

    async def gone(tenant, name, *note, **options):
        if name.startswith("said:"):
            raise StoreUnavailable("gone")
        await put(tenant, name, *note, **options)

    monkeypatch.setattr(store.notes, "put", gone)
    result = await result_of(converse(ASKED, HELLO))
    assert (await store.session(result.session_id)).head == result.snapshot


async def test_a_session_that_goes_with_the_first_request_is_made_again_for_a_retry(
    converse, store, scripted, monkeypatch
):
    """The retry has found it, and the first request takes it away before its turn begins."""
    create = store.create_session

    async def taken_away(**named):
        session = await create(**named)
        await store.delete_session(session.id)
        return session

    with monkeypatch.context() as patch:
        patch.setattr(store, "create_session", taken_away)
        with pytest.raises(StillRunning):
            await result_of(converse(ASKED, HELLO, "k"))
        scripted[0].clear()
    result = await result_of(converse(ASKED, HELLO, "k"))
    assert [one.id for one in await store.sessions("default")] == [result.session_id]
