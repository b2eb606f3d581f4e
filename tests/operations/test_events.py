"""Who follows a session learns what happens to it, in whichever runtime."""

import asyncio
import contextlib
import re

import httpx
import pytest
import uvicorn

from agent_runtime.feed import following
from agent_runtime.service.api import create_app
from agent_runtime.wire.session_events import SESSION_EVENTS
from agent_runtime.wire.sessions import SessionView
from engine.launch import free_port
from state_store.feeds import Post

from .listening import listening
from .slow import SlowEndpoint

SAYS = {"messages": [{"role": "user", "content": "Hello."}]}
NEVER = "ses-0123456789abcdef-0123456789abcdef"


@contextlib.asynccontextmanager
async def serving(settings):
    """A runtime in this process, on a port."""
    app, port = create_app(settings), free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not task.done()
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20
        ) as client:
            yield client
    finally:
        await app.state.followers.close()
        server.should_exit = True
        await task


@pytest.fixture
async def http(settings):
    async with serving(settings) as client:
        yield client


@pytest.fixture
async def other(settings):
    """A second runtime over the same store."""
    async with serving(settings) as client:
        yield client


@pytest.fixture
async def path(http):
    made = await http.post("/v1/sessions", json={})
    return f"/v1/sessions/{made.json()['id']}"


@pytest.mark.parametrize("where", ["the same runtime", "another runtime"])
async def test_all_that_happens_to_a_session_is_told_in_order(http, other, path, script, where):
    script("Yes.", "No.")
    there = http if where == "the same runtime" else other
    async with listening(http, f"{path}/events") as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        began = await stream.next()
        assert (began.name, began.data) == ("session", (await http.get(path)).json())
        assert (await there.post(f"{path}/turns", json=SAYS)).status_code == 200
        assert (await there.post(f"{path}/suspend", json={})).status_code == 200
        assert (await there.post(f"{path}/resume", json={})).status_code == 200
        assert (await there.post(f"{path}/rewind", json={"turns": 1})).status_code == 200
        told = await stream.until("rewound")
        assert (await there.delete(path)).status_code == 204
        told += await stream.until("deleted")
        assert await stream.next() is None
    names = [event.name for event in told]
    assert names == ["turn_began", "turn_committed", "suspended", "resumed", "rewound", "deleted"]
    turn, committed, suspended, resumed, rewound, _ = (event.data for event in told)
    assert turn["turn"] == committed["turn"]
    assert (turn["head"], rewound["head"]) == (None, None)
    assert committed["snapshot"] == suspended["head"] == resumed["head"]
    assert (committed["usage"]["completion_tokens"], committed["finish_reason"]) == (2, "stop")
    assert "Yes." not in str(told)
    assert set(names) <= set(SESSION_EVENTS)


async def test_a_reader_goes_on_after_the_last_event_that_it_has(http, other, path, script):
    script("1", "2", "3")
    async with listening(http, f"{path}/events") as stream:
        await http.post(f"{path}/turns", json=SAYS)
        last = (await stream.until("turn_committed"))[-1]
    await http.post(f"{path}/turns", json=SAYS)
    async with listening(other, f"{path}/events", after=last.id) as stream:
        await http.post(f"{path}/turns", json=SAYS)
        names = [(await stream.next()).name for _ in range(4)]
    assert names == ["turn_began", "turn_committed"] * 2


@pytest.mark.parametrize("after", ["1-1", "yesterday", ""])
async def test_a_reader_who_was_away_for_too_long_is_told(http, path, after):
    async with listening(http, f"{path}/events", after=after) as stream:
        missed, session = await stream.next(), await stream.next()
    assert (missed.name, missed.data) == ("missed", {"dropped": None})
    assert session.data == (await http.get(path)).json()


async def test_turns_that_fail_or_are_cancelled_are_told(settings, path, http, endpoint):
    slow = SlowEndpoint()
    backend = settings.backend.model_copy(update={"url": slow.url})
    async with (
        serving(settings.model_copy(update={"backend": backend})) as there,
        listening(http, f"{path}/events") as stream,
    ):
        running = asyncio.create_task(there.post(f"{path}/turns", json=SAYS))
        (began,) = (await stream.until("turn_began"))[1:]
        await there.post(f"{path}/cancel")
        assert "cancelled" in (await running).text
        (cancelled,) = await stream.until("turn_cancelled")
        assert cancelled.data == {"turn": began.data["turn"]}
        slow.close()
        await there.post(f"{path}/turns", json=SAYS)
        *_, failed = await stream.until("turn_failed")
        assert failed.data["code"] == "engine_unreachable"


@pytest.mark.parametrize("burst", [1, following._RING, 3 * following._RING])
async def test_a_slow_reader_is_told_how_many_it_missed(store, http, path, burst):
    session_id = path.rpartition("/")[2]
    followers = following.Followers(store)

    async def look():
        return SessionView.model_validate((await http.get(path)).json())

    async def tell(*numbers):
        posts = [Post(session_id, b'rewound\n{"head":"%d"}' % number) for number in numbers]
        await store.feeds.publish(posts)
        followers.posted({session_id})

    told = followers.follow(session_id, look, after=None)
    assert "event: session" in await anext(told)
    following_on = asyncio.create_task(anext(told))
    while session_id not in followers._followed:  # noqa: ASYNC110
        await asyncio.sleep(0)
    followed = followers._followed[session_id]
    await tell(1)
    texts = [await following_on]
    for done in range(1, 1 + 3 * following._RING, burst):  # and reads nothing
        await tell(*range(done + 1, done + 1 + burst))
        while followed.last.number < done + burst:
            await followed.news.wait()
    assert len(followed.ring) == following._RING
    texts.append(await anext(told))
    heads = [int(head) for head in re.findall(r'"head":"(\d+)"', "".join(texts))]
    (missed,) = re.findall(r'"dropped":(\d+)', "".join(texts))
    assert heads == [1, *range(2 * following._RING + 2, 3 * following._RING + 2)]
    assert int(missed) == 2 * following._RING
    await told.aclose()
    await followers.close()


async def test_silence_is_broken_by_comments(http, path, monkeypatch):
    monkeypatch.setattr(following, "_KEEP_ALIVE", 0.05)
    async with listening(http, f"{path}/events") as stream:
        await stream.next()
        for _ in range(3):
            await stream.comment()


async def test_a_session_that_is_not_there_has_no_events(http):
    answer = await http.get(f"/v1/sessions/{NEVER}/events")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
