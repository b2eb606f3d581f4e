"""A runtime that is told to stop ends what it has begun, begins nothing more, and keeps nothing."""

import asyncio
import os
import signal

import httpx
import pytest

from agent_runtime.sdk import ApiError, Torpor
from tests.serving import runtime_process

from .listening import listening
from .slow import SlowEndpoint

LIMIT = 30


@pytest.fixture
def slow():
    endpoint = SlowEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def runtime(bare_store, slow, tmp_path, request):
    """A process; indirectly parametrized with its drain_timeout."""
    process = runtime_process(
        bare_store.url,
        tmp_path / "runtime.log",
        backend=slow.url,
        options=["--set", f"drain_timeout={getattr(request, 'param', LIMIT)}"],
    )
    process.log = tmp_path / "runtime.log"
    with process:
        yield process


@pytest.fixture
async def torpor(runtime):
    async with Torpor(runtime.url) as client:
        yield client


@pytest.fixture
async def http(runtime):
    async with httpx.AsyncClient(base_url=runtime.url, trust_env=False, timeout=30) as client:
        yield client


async def begun(torpor, http, session):
    """A turn whose first words have come; and a stream of what happens to its session."""
    turn = asyncio.create_task(torpor.turn(session.id, "Hello."))
    async with listening(http, f"/v1/sessions/{session.id}/events") as stream:
        if (await stream.next()).data["turn"] is None:
            await stream.until("turn_began")
    return turn


async def told(http, *, is_draining):
    """Until the service says so."""
    while True:
        ready = await http.get("/ready")
        if (ready.status_code == 503) is is_draining:
            return ready.json()
        await asyncio.sleep(0.02)


async def exit_code(runtime):
    return await asyncio.to_thread(runtime.process.wait, 30)


@pytest.mark.parametrize("stopped_by", [signal.SIGTERM, signal.SIGHUP])
async def test_running_turns_end_and_no_new_ones_begin(
    runtime, torpor, http, slow, store, stopped_by
):
    session, idle = await torpor.create(), await torpor.create()
    turn = await begun(torpor, http, session)
    async with listening(http, f"/v1/sessions/{session.id}/events") as stream:
        os.kill(runtime.pid, stopped_by)
        assert (await told(http, is_draining=True))["reason"] == "it is being stopped"
        os.kill(runtime.pid, signal.SIGHUP)  # from the shell, after the kernel's
        body = {"messages": [{"role": "user", "content": "Hello."}]}
        refused = await http.post(f"/v1/sessions/{idle.id}/turns", json=body)
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) > 0
        assert (await http.get("/health")).status_code == 200
        assert not turn.done()
        slow.go.set()
        assert (await turn).text == "It ends."
        assert "turn_committed" in [event.name for event in await stream.until("suspended")]
        while await stream.next() is not None:
            pass
    assert await exit_code(runtime) == 0
    assert "drained: 0 turns were ended at the limit, 1 sessions suspended, 0 not" in (
        runtime.log.read_text()
    )
    assert "Traceback" not in runtime.log.read_text()
    assert await store.writer(session.id) is None
    assert (await store.session(session.id)).head == (await turn).snapshot


@pytest.mark.parametrize("runtime", [0.2], indirect=True)
async def test_a_turn_that_does_not_end_in_time_is_ended(runtime, torpor, http, store):
    session = await torpor.create()
    turn = await begun(torpor, http, session)
    os.kill(runtime.pid, signal.SIGTERM)
    with pytest.raises(ApiError, match="its runtime is being stopped") as ended:
        await turn
    assert ended.value.code == "draining"
    assert await exit_code(runtime) == 0
    assert "1 turns were ended at the limit" in runtime.log.read_text()
    assert await store.writer(session.id) is None
    assert (await store.session(session.id)).head is None


async def test_a_second_signal_cuts_it_short(runtime, torpor, http, store):
    session = await torpor.create()
    turn = await begun(torpor, http, session)
    os.kill(runtime.pid, signal.SIGTERM)
    await told(http, is_draining=True)
    os.kill(runtime.pid, signal.SIGINT)
    assert await exit_code(runtime) == 0
    (outcome,) = await asyncio.gather(turn, return_exceptions=True)
    assert isinstance(outcome, Exception)
    assert await store.writer(session.id) is None
