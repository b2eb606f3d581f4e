"""What is done for whom: keys, roles and defaults, and what the feed tells of a turn."""

import asyncio
import json

import httpx
import pytest

from agent_runtime.mcp_server.tools import all_tools
from agent_runtime.sdk import Torpor
from agent_runtime.settings import BodyLimits
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import SamplingDefaults, TurnRequest
from state_store.feeds import START
from tests.backends.scripted import says, scripted_runtime

HI = [{"role": "user", "content": "Hi"}]


def client_of(app):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


@pytest.fixture
def connect(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    return lambda: Torpor("http://scripted", transport=transport)


@pytest.fixture
async def torpor(connect):
    async with connect() as client:
        yield client


@pytest.mark.parametrize(
    ("where", "told", "has_head"),
    [
        ("before the commit", "turn_cancelled", False),
        ("in the commit", "turn_committed", True),
        ("behind the commit", "turn_committed", True),
    ],
)
async def test_of_a_turn_that_its_client_leaves_the_feed_tells_what_it_came_to(
    scripted_app, torpor, said, monkeypatch, where, told, has_head
):
    state, reached = scripted_app.state, asyncio.Event()
    commit = state.store.commit

    async def hanging(*given, **more):
        if where == "in the commit":
            await commit(*given, **more)
        reached.set()
        await asyncio.Event().wait()

    if where == "behind the commit":
        monkeypatch.setattr(state.turns._answers, "give", hanging)
    else:
        monkeypatch.setattr(state.store, "commit", hanging)
    said.scripted.append(says({"content": "Hello."}))
    session = await torpor.create()

    async def ask():
        request = TurnRequest(messages=[Message(role="user", content="Hi")])
        async for _ in state.turns.run(session.id, request, key=f"left {where}"):
            pass

    asking = asyncio.create_task(ask())
    await reached.wait()
    asking.cancel()
    await asyncio.wait([asking])
    head = (await torpor.get(session.id)).head
    assert (head is not None) is has_head
    events = []
    async with asyncio.timeout(10):
        while len(events) < 2:
            found = await state.store.feeds.after({session.id: START})
            events = [one.value.decode().partition("\n") for one in found.get(session.id, ())]
            await asyncio.sleep(0)
    assert [name for name, _, _ in events] == ["turn_began", told]
    assert json.loads(events[1][2]).get("snapshot") == head


async def test_no_key_of_a_client_is_that_of_a_part_of_another_request(scripted_app, said):
    said.scripted += [says({"content": text}) for text in ("One.", "Two.", "Three.")]
    async with client_of(scripted_app) as http:
        for key, count in (("job/1", 1), ("job", 2)):
            answer = await http.post(
                "/v1/chat/completions",
                headers={"Idempotency-Key": key},
                json={"model": "scripted", "messages": HI, "n": count},
            )
            assert answer.status_code == 200
            replayed = [one["torpor"]["replayed"] for one in answer.json()["choices"]]
            assert replayed == [False] * count


async def test_a_key_that_may_only_read_has_no_response_made(bare_store, store, said, monkeypatch):
    async with (
        scripted_runtime(bare_store.url, said, require_keys=True, cancel_interval=0.05) as app,
        client_of(app) as http,
    ):
        use, read = [
            {"X-Api-Key": (await store.keys.create("ann", role=role))[1]}
            for role in ("use", "read")
        ]

        async def dead(_):
            pass

        with monkeypatch.context() as patch:
            patch.setattr(app.state.responses._background, "_run", dead)
            body = {"model": "scripted", "input": "Hi", "background": True}
            made = (await http.post("/v1/responses", headers=use, json=body)).json()
        path, alive = f"/v1/responses/{made['id']}", f"background-alive:{made['id']}"
        await store.notes.delete("ann", alive)
        assert (await http.get(path, headers=read)).json()["status"] == "queued"
        assert await store.notes.get("ann", [alive]) == [None]
        said.scripted.append(says({"content": "Hello."}))
        async with asyncio.timeout(20):
            status = ""
            while status != "completed":
                status = (await http.get(path, headers=use)).json()["status"]
    assert len(said.seen) == 1


async def test_what_an_mcp_client_does_not_say_is_as_the_session_has_it(connect, torpor, said):
    class Nobody:
        async def report_progress(self, *_):
            pass

    sampling = SamplingDefaults(temperature=0.9, max_tokens=7, stop=["END"])
    session = await torpor.create(sampling=sampling)
    tool = next(one for one in all_tools(connect) if one.name == "turn")
    said.scripted += [says({"content": "Hello."})] * 2
    await tool.fn(session_id=session.id, context=Nobody(), message="Hi")
    await tool.fn(session_id=session.id, context=Nobody(), message="Hi", temperature=0.1)
    asked = [[body["temperature"], body["max_tokens"], body["stop"]] for _, body in said.seen]
    assert asked == [[0.9, 7, ["END"]], [0.1, 7, ["END"]]]


async def test_what_need_not_be_said_needs_no_body(scripted_app, said):
    async with client_of(scripted_app) as http:
        made = await http.post("/v1/sessions")
        assert made.status_code == 201
        path = f"/v1/sessions/{made.json()['id']}"
        for what in ("suspend", "resume", "persist", "hold", "fork"):
            bare = await http.post(f"{path}/{what}")
            empty = await http.post(f"{path}/{what}", json={})
            assert bare.status_code == empty.status_code != 422
            wrong = await http.post(f"{path}/{what}", json={"nothing": 1})
            assert wrong.status_code == 422


async def test_an_import_that_never_ends_is_given_up(bare_store, said):
    async def pieces():
        yield b"x"
        await asyncio.Event().wait()

    limits = BodyLimits(seconds=0.05)
    async with (
        scripted_runtime(bare_store.url, said, body_limits=limits) as app,
        client_of(app) as http,
    ):
        answer = await http.post("/v1/import", content=pieces())
    assert (answer.status_code, answer.json()["code"]) == (408, "body_timeout")
