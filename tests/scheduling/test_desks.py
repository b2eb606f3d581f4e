"""The scheduler of an engine that has been started again begins anew; that of before is gone."""

import asyncio
from types import SimpleNamespace

import pytest

from agent_runtime.scheduling.admission import Admission
from agent_runtime.scheduling.residency import Residency
from agent_runtime.settings import RuntimeSettings


def engine(boot_id, *, states):
    """As far as the scheduler knows one: what its record says."""

    async def release(tag):
        pass

    record = SimpleNamespace(
        engine_id="e", boot_id=boot_id, running_slots=1, state_slots=states, kv_slots=9000, ranks=1,
        staging_bytes=1_000_000, state_object_bytes=10, kv_object_bytes=64, page_size=64,
    )  # fmt: skip
    return SimpleNamespace(record=record, client=SimpleNamespace(release=release))


@pytest.fixture
async def desks():
    fetched = []

    async def prefetch(session_id, engine):
        fetched.append((session_id, engine.record.boot_id))

    residency = Residency()
    settings = RuntimeSettings(redis_url="redis://none", model_dir="unused")
    admission = Admission(settings, residency, prefetch)

    async def turn(session_id, engine):
        async with admission.slot(session_id, "t", engine, known=100, added=300) as slot:
            residency.placed(session_id, engine.record.boot_id)
            slot.ended(tokens=400, tool="", reprefilled=False)

    yield SimpleNamespace(admission=admission, residency=residency, turn=turn, fetched=fetched)
    await admission.close()


async def test_what_an_engine_expected_before_it_was_started_again_is_forgotten(desks):
    first, second = engine("first", states=4), engine("second", states=4)
    await desks.turn("returns", first)
    await asyncio.sleep(0.5)
    await desks.turn("returns", first)  # a reply takes half a second: it is expected then
    for name in "abc":
        await desks.turn(name, first)
    assert desks.admission._desks["first"].scheduler.away == 3
    for name in "def":
        await desks.turn(name, second)
    assert list(desks.admission._desks) == ["second"]
    resident = desks.admission._desks["second"].scheduler.resident
    await asyncio.sleep(1.0)
    assert desks.fetched == []
    assert list(desks.admission._desks) == ["second"]
    assert desks.admission._desks["second"].scheduler.resident == resident != ()


async def test_sessions_that_are_held_leave_last_and_are_asked_to_once_the_hold_is_over(
    desks,
):
    one, residency = engine("boot", states=12), desks.residency
    await desks.turn("held", one)
    residency.held("held", 600)
    for name in "abcde":
        await desks.turn(name, one)
    assert residency.place("a") is None
    assert "held" in desks.admission._desks["boot"].scheduler.resident
    assert residency.on_device("held", "boot")
    residency.held("held", 0.0)
    for name in "fg":
        await desks.turn(name, one)
    assert "held" not in desks.admission._desks["boot"].scheduler.resident
    assert not residency.on_device("held", "boot")
