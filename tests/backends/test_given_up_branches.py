"""Branches that somebody gives up are deleted."""

import asyncio

import pytest

from agent_runtime.branching import best_of, search
from tests.backends.endpoint import DONE, USAGE, Scripted, event

HELLO = Scripted(event({"content": "Hello."}, finish_reason="stop") + USAGE + DONE)


@pytest.mark.parametrize("several_steps", [False, True])
async def test_no_branch_is_left_when_a_search_is_cancelled(torpor, store, endpoint, several_steps):
    endpoint.scripted += [HELLO] * 4
    before = {one.id for one in await store.sessions("default")}
    session = await torpor.create()
    await torpor.turn(session.id, "Hi")
    scored = 0
    waiting = asyncio.Event()

    async def score(result):
        nonlocal scored
        scored += 1
        if scored >= (3 if several_steps else 1):
            waiting.set()
            await asyncio.Event().wait()
        return 1.0

    if several_steps:
        going = search(torpor, session.id, ["One", "Two"], width=2, keep=1, score=score)
    else:
        going = best_of(torpor, session.id, "One", n=2, score=score)
    searching = asyncio.create_task(going)
    await waiting.wait()
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    endpoint.scripted.clear()
    assert {one.id for one in await store.sessions("default")} - before == {session.id}
    await torpor.delete(session.id)
