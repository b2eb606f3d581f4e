"""Turns while they run: cancelled from anywhere, left by clients, interrupted when runtimes die."""

import asyncio
import contextlib
import sys
from pathlib import Path

import psutil
import pytest

from agent_runtime.demo.script import SYSTEM
from agent_runtime.deployment import RuntimeProcess
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.records import TurnRecords
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnRequest
from engine.client import Sampling
from engine.launch import free_port
from engine.pool import HANGS
from state_store.registry import engine_key

from .talk import HISTORY, LONG

LEASE = 2.0  # seconds
SERVE = f"""
import asyncio, sys
from pathlib import Path
from agent_runtime.service.server import serve
from agent_runtime.settings import ServiceSettings
settings = ServiceSettings(
    redis_url=sys.argv[1], model_dir=Path(sys.argv[2]), port=int(sys.argv[3]), lease_ttl={LEASE}
)
asyncio.run(serve(settings))
"""


class ShortLived(RuntimeProcess):
    """A runtime whose sessions are free soon after it died."""

    def __init__(self, stage):
        super().__init__(
            redis_url=stage.store.url,
            archive=None,
            model=stage.model,
            port=free_port(),
            log_file=Path(stage.layout.data) / "short-lived.log",
        )
        port = self.url.rsplit(":", 1)[1]
        self._command = [sys.executable, "-c", SERVE, stage.store.url, str(stage.model), port]


@pytest.fixture
def other(stage):
    """Another runtime on the same store and engine, in a process of its own."""
    with ShortLived(stage) as runtime:
        yield runtime


async def begin(torpor, session_id, **options):
    """A long turn that has said something; the rest of its events."""
    events = torpor.stream(session_id, LONG, max_tokens=100, **options)
    await anext(events)
    return events


async def until_idle(engine):
    for _ in range(100):
        load = await engine.client.load(timeout=60)
        if load is not None and not load.running + load.waiting:
            return
        await asyncio.sleep(0.05)
    pytest.fail("the engine goes on generating")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "from another runtime"])
async def test_a_cancelled_turn_ends_at_once_and_changes_nothing(
    torpor, stage, session, engine, elsewhere, request
):
    before = await torpor.turn(session.id, HISTORY[0], max_tokens=16)
    url = request.getfixturevalue("other").url if elsewhere else stage.runtime.url
    events = await begin(torpor, session.id)
    async with Torpor(url) as asked:
        running = (await asked.get(session.id)).turn
        assert (running.state, running.messages[0].content) == ("running", LONG)
        cancelled = await asked.cancel(session.id)
    assert (cancelled.turn, cancelled.head) == (running.id, before.snapshot)
    assert not cancelled.committed
    with pytest.raises(ApiError) as ended:
        async for _ in events:
            pass
    assert ended.value.code == "cancelled"
    await until_idle(engine)
    view = await torpor.get(session.id)
    assert (view.head, view.turn) == (before.snapshot, None)
    after = await torpor.turn(session.id, HISTORY[1], max_tokens=16)
    assert after.parent == before.snapshot


async def test_a_turn_is_cancelled_while_its_engine_is_made_ready(torpor, session, stage, store):
    before = await torpor.turn(session.id, HISTORY[0], max_tokens=16)
    await torpor.suspend(session.id)
    server = psutil.Process(stage.engine.pid)
    family = [server, *server.children(recursive=True)]
    try:
        for process in family:
            process.suspend()
        async with store._control.guard() as client:  # it is silent, and not known to be dead
            await client.expire(engine_key("torpor", stage.engine.options.engine_id), 60)
        turn = asyncio.create_task(torpor.turn(session.id, HISTORY[1]))
        async with asyncio.timeout(HANGS * 0.8):  # then the engine is given up
            while not any(one.running for one in await torpor.scheduling()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await torpor.cancel(session.id)
            with pytest.raises(ApiError) as ended:
                await turn
    finally:
        for process in family:
            process.resume()
    assert ended.value.code == "cancelled"
    assert (await torpor.get(session.id)).head == before.snapshot


async def test_cancelling_what_does_not_run_says_so(torpor, session):
    nothing = await torpor.cancel(session.id)
    assert (nothing.turn, nothing.head, nothing.committed) == (None, None, False)
    with pytest.raises(ApiError) as missing:
        await torpor.cancel("ses-0000000000000000-0000000000000000")
    assert missing.value.status == 404


async def test_a_cancelled_turn_may_be_sent_again_with_its_key(torpor, session):
    events = await begin(torpor, session.id, idempotency_key="again")
    await torpor.cancel(session.id)
    with pytest.raises(ApiError):
        async for _ in events:
            pass
    again = await torpor.turn(session.id, LONG, max_tokens=100, idempotency_key="again")
    assert not again.replayed
    assert len(await torpor.snapshots(session.id)) == 1


async def test_the_engine_stops_generating_for_a_client_that_goes_away(torpor, session, engine):
    events = await begin(torpor, session.id)
    await events.aclose()
    await until_idle(engine)
    for _ in range(100):
        view = await torpor.get(session.id)
        if view.turn is None:
            break
        await asyncio.sleep(0.05)
    assert view.turn is None


async def test_an_answer_that_is_not_read_on_is_ended_on_the_engine(engine):
    endless = Sampling(max_new_tokens=20_000, ignore_eos=True)
    chunks = engine.client.generate([5] * 40, endless, salt="s")
    await anext(chunks)
    await chunks.aclose()
    await until_idle(engine)


async def test_the_engine_stops_for_a_client_that_goes_before_the_first_token(
    torpor, session, engine, stage
):
    async with Torpor(stage.runtime.url) as impatient:
        turn = asyncio.create_task(
            impatient.turn(session.id, "Read this:\n" + "word " * 6000, max_tokens=4)
        )
        while not turn.done():
            load = await engine.client.load(timeout=60)
            if load is not None and load.running + load.waiting:
                break
        assert not turn.done()
        turn.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await turn
    await until_idle(engine)
    assert (await torpor.get(session.id)).head is None
    assert (await torpor.turn(session.id, HISTORY[0], max_tokens=8)).parent is None


async def test_a_turn_whose_runtime_was_killed_is_interrupted_and_resumed(torpor, other, store):
    created = await torpor.create(system=SYSTEM)
    first = await torpor.turn(created.id, HISTORY[0], max_tokens=16)
    async with Torpor(other.url) as client:
        events = await begin(client, created.id, idempotency_key="killed")
        with pytest.raises(ApiError, match="being written"):
            [event async for event in torpor.resume_turn(created.id)]
        other.kill()
        with contextlib.suppress(Exception):
            async for _ in events:
                pass
    for _ in range(100):
        view = await torpor.get(created.id)
        if view.turn.state == "interrupted":
            break
        await asyncio.sleep(0.1)
    assert view.turn.state == "interrupted"
    assert view.head == first.snapshot
    assert view.turn.messages[0].content == LONG
    *_, result = [event async for event in torpor.resume_turn(created.id)]
    assert result.parent == first.snapshot
    view = await torpor.get(created.id)
    assert (view.head, view.turn) == (result.snapshot, None)
    # Who sent it at first and asks again is told of what was resumed.
    again = await torpor.turn(created.id, LONG, max_tokens=100, idempotency_key="killed")
    assert (again.snapshot, again.replayed) == (result.snapshot, True)
    with pytest.raises(ApiError) as refused:
        [event async for event in torpor.resume_turn(created.id)]
    assert refused.value.code == "nothing_interrupted"
    await torpor.delete(created.id)


async def test_an_interrupted_turn_that_is_cancelled_is_forgotten(torpor, session, store, stage):
    settings = RuntimeSettings(redis_url=stage.store.url, model_dir=stage.model)
    records, begun = TurnRecords(store, settings), await store.session(session.id)
    asked = TurnRequest(messages=[Message(role="user", content=LONG)])
    await records.write(begun, records.new(begun, asked, owner="runtime-that-died", key=None))
    view = await torpor.get(session.id)
    assert view.turn.state == "interrupted"
    cancelled = await torpor.cancel(session.id)
    assert cancelled.turn == view.turn.id
    assert (await torpor.get(session.id)).turn is None
    with pytest.raises(ApiError) as refused:
        [event async for event in torpor.resume_turn(session.id)]
    assert refused.value.code == "nothing_interrupted"
