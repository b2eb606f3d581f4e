"""Turns that have lost their session, or were committed and never forgotten."""

import asyncio
import contextlib
import threading

import httpx
import pytest

from agent_runtime.errors import NothingInterrupted
from agent_runtime.sdk import ApiError, Torpor
from state_store.errors import StoreUnavailable
from state_store.layout import LineageKeys, lineage_of
from tests.backends.scripted import says


@pytest.fixture
async def torpor(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with Torpor("http://scripted", transport=transport) as client:
        yield client


async def until_asked(said, times):
    for _ in range(1000):
        if len(said.seen) == times:
            return
        await asyncio.sleep(0.01)
    pytest.fail("never asked")


async def test_a_turn_outlives_the_one_that_lost_its_lease_to_it(scripted_app, torpor, said):
    session = await torpor.create()
    held = [says({"content": text}) for text in ("First.", "Second.", "Third.")]
    for answer in held:
        answer.after = threading.Event()
    said.scripted += held
    store = scripted_app.state.store

    async def taking_over(text, times):
        turn = asyncio.create_task(torpor.turn(session.id, text))
        await until_asked(said, times)
        key = LineageKeys("torpor", lineage_of(session.id)).lease(session.id)
        async with store._control.guard() as client:  # as after a failover that had it not yet
            await client.delete(key)
        return turn

    first = await taking_over("1", 1)
    second = await taking_over("2", 2)
    held[0].after.set()
    with pytest.raises(ApiError) as lost:
        await first
    assert lost.value.code == "lease_lost"
    third = asyncio.create_task(torpor.turn(session.id, "3"))
    await until_asked(said, 3)
    held[1].after.set()
    with contextlib.suppress(ApiError):
        await second
    cancelled = await torpor.cancel(session.id)
    assert (cancelled.head, cancelled.committed) == (None, False)
    with pytest.raises(ApiError) as ended:
        await third
    assert ended.value.code == "cancelled"
    held[2].after.set()
    await torpor.delete(session.id)


async def test_a_committed_turn_is_not_interrupted_after_a_rewind(
    scripted_app, torpor, said, monkeypatch
):
    records = scripted_app.state.turns.records
    session = await torpor.create()
    said.scripted += [says({"content": "One."}), says({"content": "Two."})]
    first = await torpor.turn(session.id, "1")

    async def gone(*_):
        raise StoreUnavailable("killed before it could be forgotten")

    with monkeypatch.context() as patch:
        patch.setattr(records, "end", gone)
        await torpor.turn(session.id, "2")
    assert await records.read(await scripted_app.state.store.session(session.id)) is not None
    rewound = await torpor.rewind(session.id, turns=1)
    assert (rewound.head, rewound.turn) == (first.snapshot, None)
    with pytest.raises(NothingInterrupted):
        async for _ in scripted_app.state.turns.resume(session.id):
            pass
    await torpor.delete(session.id)
