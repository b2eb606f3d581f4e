"""Deleting a session ends the turn that runs in it, wherever that is."""

import asyncio
import contextlib
import dataclasses
import threading

import httpx
import pytest

from agent_runtime.sdk import ApiError, Torpor
from tests.backends.scripted import says, scripted_runtime


@pytest.fixture
def hanging(said):
    """An answer that does not come before the test has ended."""
    gate = threading.Event()
    said.scripted.append(dataclasses.replace(says({"content": "Late."}), after=gate))
    yield
    gate.set()


@contextlib.asynccontextmanager
async def clients(url, said, **settings):
    """Of two runtimes."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            app = await stack.enter_async_context(scripted_runtime(url, said, **settings))
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            made.append(
                await stack.enter_async_context(Torpor("http://scripted", transport=transport))
            )
        yield made


async def begun(said):
    """Until the endpoint is asked."""
    while not said.seen:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_the_turn_ends_and_nothing_is_left(bare_store, store, said, hanging, elsewhere):
    async with clients(bare_store.url, said, cancel_interval=0.05) as (one, other):
        session = await one.create()
        turn = asyncio.create_task(one.turn(session.id, "Hello."))
        await begun(said)
        await (other if elsewhere else one).delete(session.id)
        with pytest.raises(ApiError) as ended:
            async with asyncio.timeout(20):
                await turn
        assert ended.value.code == "cancelled"
        with pytest.raises(ApiError, match="no session"):
            await one.get(session.id)
    problems = (await store.check_integrity()).problems
    assert [one for one in problems if session.id in str(one)] == []


async def test_with_an_expected_head_it_is_refused_while_a_turn_runs(bare_store, said, hanging):
    async with clients(bare_store.url, said, cancel_interval=0.05) as (one, _):
        session = await one.create()
        turn = asyncio.create_task(one.turn(session.id, "Hello."))
        await begun(said)
        with pytest.raises(ApiError) as refused:
            await one.delete(session.id, expected_head="")
        assert (refused.value.code, refused.value.retry_after) == ("lease_held", 1.0)
        with pytest.raises(ApiError, match="is being written") as refused:
            await one.turn(session.id, "Again.")
        assert (refused.value.code, refused.value.retry_after) == ("lease_held", 1.0)
        assert (await one.get(session.id)).turn.state == "running"
        await one.cancel(session.id)
        with pytest.raises(ApiError):
            await turn
