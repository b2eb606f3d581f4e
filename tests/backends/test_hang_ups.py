"""Clients that go away in the middle of a request."""

import asyncio

import httpx
import pytest

from agent_runtime.turns.records import TurnRecords
from state_store.leases import Leases
from tests.backends.scripted import says

TURN = {"messages": [{"role": "user", "content": "Hello."}]}


class Delayed:
    """A method whose work is done at once and whose caller hears of it when it is told to."""

    def __init__(self, patch, kind, name):
        self.is_done, self.may_return = asyncio.Event(), asyncio.Event()
        real = getattr(kind, name)

        async def delayed(*args, **named):
            result = await real(*args, **named)
            self.is_done.set()
            await self.may_return.wait()
            return result

        patch.setattr(kind, name, delayed)


@pytest.fixture
async def http(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://scripted") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("turns", Leases, "acquire"),
        ("turns", TurnRecords, "write"),
        ("suspend", Leases, "acquire"),
    ],
    ids=["turn", "begun turn", "suspend"],
)
async def test_a_client_that_hangs_up_before_its_request_begins_leaves_the_session_free(
    scripted_app, http, said, monkeypatch, path, kind, name
):
    said.scripted += [says({"content": "Hello."}), says({"content": "Once more."})]
    session = (await http.post("/v1/sessions", json={})).json()["id"]
    await http.post(f"/v1/sessions/{session}/turns", json=TURN)
    body = TURN if path == "turns" else {}
    with monkeypatch.context() as patch:
        delayed = Delayed(patch, kind, name)
        request = asyncio.create_task(http.post(f"/v1/sessions/{session}/{path}", json=body))
        await asyncio.wait_for(delayed.is_done.wait(), 10)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        delayed.may_return.set()
        await scripted_app.state.turns.given_back(session)
    assert await scripted_app.state.store.writer(session) is None
    assert (await http.get(f"/v1/sessions/{session}")).json()["turn"] is None
    assert (await http.post(f"/v1/sessions/{session}/turns", json=TURN)).status_code == 200
