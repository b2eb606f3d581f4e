"""What is held or waits to be stored leaves the requests that run the states that they need."""

import asyncio
import itertools
import os
import random
import signal
from functools import partial
from types import SimpleNamespace

import pytest
from engine_cpu.server import MODEL

from engine.linker.device import Holds
from engine.linker.ranks import Ranks
from engine.linker.room import StateRoom
from engine.linker.steps import Steps
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
    os.kill(own_store.process.pid, signal.SIGSTOP)
    try:
        for _ in range(SLOTS):
            assert await answers(tight, RUNNING, 2) == [2] * RUNNING
    finally:
        os.kill(own_store.process.pid, signal.SIGCONT)
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


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_requests_find_their_states(seed):
    rng, running = random.Random(seed), 0
    slots, per_request = rng.randint(4, 200), rng.choice((3, 4, 5))
    slots = max(slots, per_request)
    room = StateRoom(slots, per_request, lambda: running)
    most = 0
    for _ in range(2000):
        match rng.choice(("begin", "end", "wait", "stored", "hold", "let go")):
            case "begin" if running < room.for_requests():
                running += 1
            case "end" if running:
                running -= 1
            case "wait" if room.for_storing():
                room.waiting += 1
            case "stored" if room.waiting:
                room.waiting -= 1
            case "hold" if room.for_holding():
                room.held += 1
            case "let go" if room.held:
                room.held -= 1
        most = max(most, running)
        assert per_request * running + room.waiting + room.held <= slots
        assert per_request <= slots - room.held
    assert 1 <= most <= room.most_requests


@pytest.mark.parametrize("slots", [16, 32, 145])
def test_a_device_full_of_requests_stores_states_all_the_same(slots):
    running = 0
    room = StateRoom(slots, 4, lambda: running)
    while running < room.for_requests():
        running += 1
    assert running == room.most_requests
    assert room.for_storing()


def test_a_hold_that_is_renewed_in_the_step_in_which_it_ends_goes_on():
    locks = []
    child = SimpleNamespace(hash_value=["a", "b"], children={}, evicted=False, id=7)

    def lock(node_id):
        locks.append(node_id)
        return SimpleNamespace(to_dec_params=lambda: None)

    tree = SimpleNamespace(
        tree_core=SimpleNamespace(root_node=SimpleNamespace(children={0: child})),
        inc_lock_ref=lock,
        dec_lock_ref=lambda node_id, _: locks.remove(node_id),
    )
    holds = Holds(100, 100)
    steps = Steps(Ranks(), holds.due)
    holds.hold(tree, "session", ["a", "b"], 0.0)
    renewed = partial(holds.hold, name="session", hashes=["a", "b"], seconds=600)
    steps._waiting["0f"] = (renewed, SimpleNamespace(set_result=lambda _: None))
    steps.run(tree)
    assert holds.left("session") > 500
    assert locks == [7]
    holds.hold(tree, "session", ["a", "b"], 0.0)
    steps.run(tree)
    assert holds.left("session") is None
    assert locks == []
