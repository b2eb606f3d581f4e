"""What goes wrong within a stream is its last event, and is counted, in every protocol."""

import asyncio
import threading

import httpx
import pytest

from tests.backends.endpoint import Scripted, event
from tests.backends.scripted import says

SAID = [{"role": "user", "content": "Hi"}]
ASKED = {
    "/v1/converse": {"messages": SAID},
    "/v1/chat/completions": {"model": "scripted", "messages": SAID, "stream": True},
    "/v1/messages": {"model": "scripted", "messages": SAID, "stream": True, "max_tokens": 9},
    "/v1/responses": {"model": "scripted", "input": "Hi", "stream": True},
}


@pytest.fixture
async def http(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    headers = {"anthropic-version": "2023-06-01"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://scripted", headers=headers
    ) as client:
        yield client


@pytest.fixture
def held(said):
    """Lets the endpoint say all, which has said something and waits."""
    go_on = threading.Event()
    rest = event({"content": "yes."}, finish_reason="stop")
    said.scripted.append(Scripted(rest, after=go_on, begins=event({"content": "Well, "})))
    yield go_on
    go_on.set()


async def errors(http, code):
    rows = (await http.get("/metrics")).text.splitlines()
    return sum(
        float(row.rsplit(" ", 1)[1])
        for row in rows
        if row.startswith("torpor_errors_total") and f'code="{code}"' in row
    )


async def running(http):
    while True:
        for session in (await http.get("/v1/sessions")).json():
            if session["turn"]:
                return session["id"], session["turn"]["id"]
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", ASKED)
async def test_a_turn_that_is_cancelled_in_a_session_of_its_own_is_told_as_cancelled(
    http, held, path
):
    before = await errors(http, "cancelled")
    asking = asyncio.create_task(http.post(path, json=ASKED[path]))
    session, turn = await asyncio.wait_for(running(http), 30)
    cancelled = await http.post(f"/v1/sessions/{session}/cancel")
    assert (cancelled.status_code, cancelled.json()) == (
        200, {"session_id": session, "turn": turn, "head": None, "committed": False},
    )  # fmt: skip
    assert "cancelled" in (await asking).text
    assert await errors(http, "cancelled") == before + 1


@pytest.mark.parametrize("path", ASKED)
async def test_an_error_that_nobody_foresaw_ends_a_stream_by_name(
    scripted_app, http, said, monkeypatch, caplog, path
):
    said.scripted.append(Scripted(event({"content": "Well, "}) * 3))
    before = await errors(http, "internal")
    run = scripted_app.state.turns.run

    async def broken(*args, **named):
        async for one in run(*args, **named):
            yield one
            raise RuntimeError("the secret of the house")

    monkeypatch.setattr(scripted_app.state.turns, "run", broken)
    answer = await http.post(path, json=ASKED[path])
    assert (answer.status_code, "secret" in answer.text) == (200, False)
    assert "a way that it does not foresee" in answer.text.strip().rsplit("\n\n", 1)[-1]
    assert await errors(http, "internal") == before + 1
    assert "the secret of the house" in caplog.text


async def test_what_goes_wrong_behind_a_response_is_an_event_too(
    scripted_app, http, said, monkeypatch
):
    said.scripted.append(says({"content": "Well."}))
    responses = scripted_app.state.responses
    events = responses._events

    async def broken(*args, **named):
        async for one in events(*args, **named):
            if one["type"] == "response.completed":
                raise RuntimeError("gone")
            yield one

    monkeypatch.setattr(responses, "_events", broken)
    answer = await http.post("/v1/responses", json=ASKED["/v1/responses"])
    last = answer.text.strip().rsplit("\n\n", 1)[-1]
    assert last.startswith("event: error\n")
    assert '"code": "internal"' in last
