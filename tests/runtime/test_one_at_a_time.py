"""Work on one name never meets, and leaves nothing behind."""

import asyncio

import pytest

from agent_runtime.turns.one_at_a_time import OneAtATime


async def test_work_on_a_name_goes_one_after_another_and_on_others_meanwhile():
    turns, order = OneAtATime(), []
    may_go = asyncio.Event()

    async def work(name, number):
        async with turns.of(name):
            order.append((name, number))
            await may_go.wait()
            order.append((name, -number))

    tasks = [asyncio.create_task(work(*one)) for one in [("a", 1), ("a", 2), ("b", 3)]]
    for _ in tasks:
        await asyncio.sleep(0)
    assert (order, len(turns)) == ([("a", 1), ("b", 3)], 2)
    may_go.set()
    await asyncio.gather(*tasks)
    assert [one for one in order if one[0] == "a"] == [("a", 1), ("a", -1), ("a", 2), ("a", -2)]
    assert len(turns) == 0


async def test_nothing_is_kept_of_work_that_fails_or_of_who_gives_up_waiting():
    turns, begun = OneAtATime(), asyncio.Event()

    async def fail():
        async with turns.of("a"):
            begun.set()
            await asyncio.sleep(0)
            raise ValueError("this work")

    async def wait():
        async with turns.of("a"):
            pass

    failing, waiting = asyncio.create_task(fail()), asyncio.create_task(wait())
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(ValueError, match="this work"):
        await failing
    assert len(turns) == 0
