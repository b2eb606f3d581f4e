"""A tenant that floods an engine lets another's turns wait for a few of its own, not for all."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import pytest

from agent_runtime.scheduling.queues import Ask
from agent_runtime.scheduling.scheduler import Scheduler, Start
from agent_runtime.sdk import Torpor
from agent_runtime.settings import RuntimeSettings, SchedulingSettings
from engine.demo_model import dialogues

from .served import listening

FLOOD = 24  # sessions, over four slots; as soon as a turn ends, the next is asked for
WAITING = 12  # of them, at least, when the other tenant asks
NOW_AND_THEN = 4  # turns of the other tenant
QUANTUM = 64  # tokens; about what a turn here costs


@dataclass
class Queued:
    """What the scheduler was asked for and what it started, in that order."""

    events: list[tuple[str, Ask]] = field(default_factory=list)

    def waiting(self, tenant: str, *, at: int | None = None) -> list[Ask]:
        """Turns of a tenant that have not started; at: after so many events"""
        found = {}
        for what, ask in self.events[:at]:
            if ask.tenant == tenant:
                found[ask.session] = ask if what == "asked" else None
        return [ask for ask in found.values() if ask is not None]

    def of(self, session: str) -> list[tuple[int, int]]:
        """Places of the session's turns among the events: when asked for, when started."""
        places = [place for place, (_, ask) in enumerate(self.events) if ask.session == session]
        return list(zip(places[::2], places[1::2], strict=True))


@pytest.fixture
async def clients(stage, store):
    """Of two tenants, at a service in this process."""
    settings = RuntimeSettings(
        redis_url=stage.store.url,
        model_dir=stage.model,
        require_keys=True,
        scheduling=SchedulingSettings(quantum=QUANTUM),
    )
    async with listening(settings) as url, contextlib.AsyncExitStack() as opened:
        made = []
        for tenant in ("many", "few"):
            await store.tenant(tenant)
            _, key = await store.keys.create(tenant)
            made.append(await opened.enter_async_context(Torpor(url, api_key=key)))
        yield made
    for tenant in ("many", "few"):
        await store.delete_tenant(tenant)
        await store.create_tenant(tenant)  # so that the next test may use the name


@pytest.fixture
def queued(monkeypatch):
    seen = Queued()
    submit, step = Scheduler.submit, Scheduler.step

    def submitted(scheduler, ask):
        submit(scheduler, ask)
        seen.events.append(("asked", ask))

    def stepped(scheduler, now):
        actions = step(scheduler, now)
        seen.events += [("started", one.ask) for one in actions if isinstance(one, Start)]
        return actions

    monkeypatch.setattr(Scheduler, "submit", submitted)
    monkeypatch.setattr(Scheduler, "step", stepped)
    return seen


async def until(condition):
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_who_asks_now_and_then_does_not_wait_for_all_that_another_tenant_asks_for(
    clients, queued
):
    many, few = clients
    flooding = [(await many.create()).id for _ in range(FLOOD)]
    asking = (await few.create()).id
    is_over = False

    async def flood(session_id):
        while not is_over:
            await many.turn(session_id, dialogues.tick().user, max_tokens=8)

    async with asyncio.TaskGroup() as tasks:
        for session_id in flooding:
            tasks.create_task(flood(session_id))
        for _ in range(NOW_AND_THEN):
            await until(lambda: len(queued.waiting("many")) >= WAITING)
            await few.turn(asking, dialogues.tick().user, max_tokens=8)
        is_over = True

    largest = max(ask.cost for _, ask in queued.events)
    bound = QUANTUM + 2 * largest  # tokens, as `scheduling/queues.py` promises it
    turns = queued.of(asking)
    assert len(turns) == NOW_AND_THEN
    for asked, started in turns:
        # First come, first served would let all of these go before.
        assert sum(ask.cost for ask in queued.waiting("many", at=asked)) > bound
        between = [ask for what, ask in queued.events[asked:started] if what == "started"]
        assert sum(ask.cost for ask in between) <= bound
        assert len(between) <= WAITING / 2
    assert all(queued.of(session_id) for session_id in flooding)
