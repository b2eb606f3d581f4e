"""Turns wait for a slot, are refused when too many do, and never keep a slot that they left."""

import asyncio

import pytest

from agent_runtime.errors import Overloaded
from agent_runtime.scheduling.admission import Admission
from agent_runtime.scheduling.residency import Residency
from agent_runtime.scheduling.scheduler import Where
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.settings import RuntimeSettings, SchedulingSettings
from engine.demo_model import dialogues
from engine.pool import EnginePool
from tests.serving import runtime_process

SLOTS = 4  # of the demo profile
LONG_PROMPT = "Read this:\n" + "word " * 2500


@pytest.fixture(scope="module")
def narrow(stage, tmp_path_factory):
    """A runtime over the stage's engine in which two turns may wait."""
    runtime = runtime_process(
        stage.store.url,
        tmp_path_factory.mktemp("narrow") / "runtime.log",
        model=stage.model,
        options=("--queue-limit", "2"),
    )
    with runtime:
        yield runtime.url


@pytest.fixture
async def client(narrow):
    async with Torpor(narrow) as client:
        yield client


@pytest.fixture
async def engine(stage, store):
    pool = EnginePool(store)
    yield await pool.pick()
    await pool.close()


@pytest.fixture
async def admission(stage):
    async def nothing(session_id, engine):
        raise AssertionError("nobody is expected")

    settings = RuntimeSettings(
        redis_url=stage.store.url,
        model_dir=stage.model,
        scheduling=SchedulingSettings(queue_limit=3),
    )
    admission = Admission(settings, Residency(), nothing)
    yield admission
    await admission.close()


async def until(condition):
    async with asyncio.timeout(60):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def test_an_engine_says_what_there_is_room_for(stage, engine):
    arguments = stage.profile.arguments
    record = engine.record
    assert record.running_slots == arguments["max-running-requests"] == SLOTS
    assert record.state_slots == arguments["max-mamba-cache-size"]
    assert record.kv_slots == arguments["max-total-tokens"]
    assert record.staging_bytes == 256 << 20


async def test_a_turn_that_finds_the_queue_full_is_refused_and_the_session_is_as_it_was(client):
    sessions = [(await client.create()).id for _ in range(SLOTS + 3)]
    await client.turn(sessions[-1], dialogues.tick().user)
    head = (await client.get(sessions[-1])).head

    def ask(session_id, text):
        return asyncio.create_task(client.turn(session_id, text, max_tokens=4))

    async def is_full():
        (engine,) = await client.scheduling()
        return engine.running == SLOTS and sum(engine.waiting.values()) == 2

    running = [ask(session_id, LONG_PROMPT) for session_id in sessions[: SLOTS + 2]]
    await until(is_full)
    with pytest.raises(ApiError, match="2 turns of all tenants wait already") as refused:
        await client.turn(sessions[-1], dialogues.tick().user)
    assert (refused.value.code, refused.value.status) == ("overloaded", 429)
    assert 1 <= refused.value.retry_after <= 60

    results = await asyncio.gather(*running)
    queued = sorted(result.timing.queued_s for result in results)
    assert queued[SLOTS - 1] < 0.1 * queued[SLOTS]  # those four had a slot at once
    assert all(result.timing.ttft_s > result.timing.queued_s for result in results)
    assert (await client.get(sessions[-1])).head == head
    await client.turn(sessions[-1], dialogues.tally(1).user)
    (engine,) = await client.scheduling()
    assert (engine.refused, engine.running, engine.waiting) == (1, 0, {})
    assert engine.turns == SLOTS + 4
    assert engine.starts["new"] == SLOTS + 3
    assert engine.starts["device"] == 1
    assert engine.resident == SLOTS + 3
    for session_id in sessions:
        await client.delete(session_id)
    (engine,) = await client.scheduling()
    assert engine.resident == 0


async def test_slots_are_given_in_turn_and_given_back(admission, engine):
    inside, most = set(), 0

    async def turn(name):
        nonlocal most
        async with admission.slot(name, "a", engine, known=0, added=100) as slot:
            inside.add(name)
            most = max(most, len(inside))
            await asyncio.sleep(0.01)
            inside.discard(name)
            slot.ended(tokens=100, tool="", reprefilled=False)
        return slot

    slots = await asyncio.gather(*(turn(f"s{n}") for n in range(SLOTS + 3)))
    assert most == SLOTS
    assert {slot.where for slot in slots} == {Where.NEW}
    assert max(slot.queued for slot in slots[:SLOTS]) < min(slot.queued for slot in slots[SLOTS:])
    (status,) = admission.status()
    assert (status.turns, status.running, status.resident) == (SLOTS + 3, 0, SLOTS + 3)


async def test_whoever_goes_away_while_waiting_or_running_leaves_no_slot_taken(admission, engine):
    async def turn(name):
        async with admission.slot(name, "a", engine, known=0, added=100):
            await asyncio.sleep(3600)

    tasks = [asyncio.create_task(turn(f"s{n}")) for n in range(SLOTS + 3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        async with admission.slot("one more", "a", engine, known=0, added=100):
            pass
    tasks[-1].cancel()  # waits
    tasks[0].cancel()  # runs: its slot goes to the next, who is cancelled before it notices
    await asyncio.sleep(0)
    tasks[SLOTS].cancel()
    await asyncio.wait([tasks[-1], tasks[0], tasks[SLOTS]])
    (status,) = admission.status()
    assert (status.running, status.waiting) == (SLOTS, {})
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    (status,) = admission.status()
    assert (status.running, status.waiting, status.resident) == (0, {}, 0)
    assert (status.used_states, status.used_tokens) == (0, 0)


async def test_a_session_has_one_turn_at_a_time(admission, engine):
    async with admission.slot("s", "a", engine, known=0, added=100):
        with pytest.raises(Overloaded, match="an earlier turn of s"):
            async with admission.slot("s", "a", engine, known=0, added=100):
                pass
