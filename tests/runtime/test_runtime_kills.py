"""A runtime is killed at random moments under load: what was answered is there, and nothing else.

Two runtimes share the engine; one of them is killed with -9 again and again, and started again at
once. 200 kills: TORPOR_RUNTIME_KILLS=200.
"""

import asyncio
import contextlib
import os
import random

import pytest

from agent_runtime.bench.agents import Agents, audit
from agent_runtime.sdk import Torpor
from agent_runtime.settings import RuntimeSettings
from engine.demo_model import dialogues

from .forked_runtime import ForkedRuntime

KILLS = int(os.environ.get("TORPOR_RUNTIME_KILLS", "60"))
SESSIONS = 12
LEASE = 3.0  # seconds
SLACK = 10.0  # seconds that an answer may be late on a busy machine
PATIENCE = 5.0  # seconds for the turns that a kill waits for
MOST_AFTER = 0.5  # seconds from one of them to the kill


@pytest.fixture
def runtimes(stage, tmp_path):
    settings = RuntimeSettings(redis_url=stage.store.url, model_dir=stage.model, lease_ttl=LEASE)
    both = [ForkedRuntime(settings, str(tmp_path / "runtime.log")) for _ in range(2)]
    for runtime in both:
        runtime.start()
    for runtime in both:
        runtime.wait()
    yield both
    for runtime in both:
        runtime.kill()


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_no_answered_turn_is_lost_and_no_other_is_there(runtimes, store):
    async with contextlib.AsyncExitStack() as opened:
        clients = [
            await opened.enter_async_context(Torpor(runtime.url, timeout=60.0))
            for runtime in runtimes
        ]
        await killed_again_and_again(runtimes, clients, store)


def answered_by(agents):
    return sum(len(agent.answered) for agent in agents.agents)


async def some_turns_later(agents, rng):
    """A moment somewhere in a turn, on a slow machine as on a fast one."""
    goal = answered_by(agents) + rng.choice([0, 0, 1, 1, 2, 3])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while True:
                if answered_by(agents) >= goal:
                    break
                await asyncio.sleep(0.01)
    await asyncio.sleep(rng.uniform(0, MOST_AFTER))


async def killed_again_and_again(runtimes, clients, store):
    rng = random.Random(9)
    agents = Agents(clients, seed=9)
    await agents.create(SESSIONS)
    ended = asyncio.Event()
    working = asyncio.create_task(agents.work(ended.is_set))
    for _ in range(KILLS):
        await some_turns_later(agents, rng)
        victim = rng.choice(runtimes)
        await asyncio.to_thread(victim.kill)
        victim.start()
        await asyncio.to_thread(victim.wait)
        assert not working.done()
    ended.set()
    await working

    ledger = await audit(clients[0], agents.agents)
    assert (ledger.lost, ledger.doubled) == (0, 0)
    answered = answered_by(agents)
    unseen = sum(len(agent.unseen) for agent in agents.agents)
    assert ledger.turns == answered + unseen
    assert sum(agent.broken_off for agent in agents.agents) > KILLS / 4  # kills hit turns
    assert answered > KILLS / 2
    assert max(agent.longest_lease for agent in agents.agents) < LEASE + SLACK

    # Whatever was broken off, each session goes on, and nobody holds its lease.
    for agent in agents.agents:
        result = await clients[1].turn(
            agent.session.id, dialogues.tick().user, expected_head=agent.head
        )
        assert result.parent == (agent.head or None)
        assert result.usage.reused_tokens >= result.usage.boundary_tokens
    assert (await store.check_integrity()).problems == []
    print(f"{KILLS} kills, {answered} turns answered, {unseen} committed whose answer never came")
    # The audit sees a turn that is not there, and one that nobody knows of.
    lost, doubled = agents.agents[:2]
    lost.snapshots.append(doubled.snapshots.pop())
    tampered = await audit(clients[0], agents.agents)
    assert (tampered.lost, tampered.doubled) == (1, 1 + SESSIONS)
    for agent in agents.agents:
        await clients[0].delete(agent.session.id)
