"""An engine with few states, and a store that stalls: nothing ends, and nothing is forgotten."""

import asyncio
import contextlib
import itertools
import os
import signal

import pytest
from engine_cpu.server import MODEL, PAGE_SIZE

from engine.pool import EnginePool
from state_store.embedded import EmbeddedServer
from state_store.store import StateStore

from .linked import ask, chain, linked, random_tokens, stored_pages

SLOTS, RUNNING = 16, 4  # all of which could be taken by what runs


@pytest.fixture(scope="module")
def own_store(folder):
    with EmbeddedServer(folder / "own") as server:
        yield server


@pytest.fixture(scope="module")
def tight_server(folder, own_store):
    settings = {"timeout": 5.0, "engine_id": "tight"}
    with linked(
        MODEL, folder, own_store.url, "--max-mamba-cache-size", str(SLOTS), **settings
    ) as server:
        yield server


@pytest.fixture
async def tight(tight_server, own_store):
    async with await StateStore.connect(own_store.url) as store:
        pool = EnginePool(store)
        yield await pool.pick()
        await pool.close()


@contextlib.contextmanager
def stalled(store):
    os.kill(store.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(store.process.pid, signal.SIGCONT)


SEEDS = itertools.count(1_000)


async def answers(engine, count, new_tokens):
    """To so many prompts at once that have nothing in common."""
    asked = [ask(engine, random_tokens(next(SEEDS), 130), new_tokens) for _ in range(count)]
    return [len(answer.ids) for answer in await asyncio.gather(*asked)]


async def test_an_engine_says_how_many_run_while_a_few_states_wait_to_be_stored(tight):
    assert (tight.record.state_slots, tight.record.running_slots) == (SLOTS, RUNNING - 1)


async def test_a_store_that_stalls_leaves_the_engine_its_states(tight, own_store):
    """More states than there is room for are made, and none can be stored."""
    await answers(tight, 1, 2)
    with stalled(own_store):
        for _ in range(SLOTS):
            assert await answers(tight, RUNNING, 2) == [2] * RUNNING
    prompt = random_tokens(next(SEEDS), 200)
    await ask(tight, prompt, 2)
    assert await stored_pages(tight, prompt) == 3


async def test_states_that_are_held_leave_those_that_run_what_they_need(tight):
    names = []
    for number in range(SLOTS):
        prompt = random_tokens(next(SEEDS), 130)
        await ask(tight, prompt, 2)
        held = await tight.hold(chain(tight, prompt), name=str(number), seconds=600, timeout=20)
        if held.reason is None:
            names.append(str(number))
        else:
            assert "others are held" in held.reason
    assert 1 <= len(names) <= SLOTS // 2
    assert await answers(tight, 2 * RUNNING, 64) == [64] * 2 * RUNNING
    for name in names:
        assert await tight.let_go(name, timeout=20)


@pytest.mark.parametrize("stalls", [False, True])
async def test_a_state_where_prompts_part_is_stored_although_its_kv_was_on_the_way(
    tight, own_store, stalls
):
    begins = random_tokens(next(SEEDS), 3 * PAGE_SIZE)
    one, other, third = (begins + random_tokens(next(SEEDS), 2 * PAGE_SIZE + 2) for _ in range(3))
    with stalled(own_store) if stalls else contextlib.nullcontext():
        await ask(tight, one, 2, restore=False)
        await ask(tight, other, 2, restore=False)
    settled = await tight.settle(chain(tight, other), timeout=30)
    assert (settled.states, settled.reason) == ((3, 5), None)
    await tight.client.flush()
    assert (await tight.prefetch(chain(tight, begins), timeout=30)).state
    assert (await ask(tight, third, 2)).cached == len(begins)
