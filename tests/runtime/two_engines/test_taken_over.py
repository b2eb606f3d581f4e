"""An engine that hangs or dies: the other one ends its turns and goes on with its sessions."""

import asyncio
import contextlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import ANY

import psutil
import pytest

from agent_runtime.messages.histories import EMPTY, Histories
from agent_runtime.sdk import ApiError
from agent_runtime.turns.committing import commit_turn
from agent_runtime.wire.events import Progress
from engine.client import Load, Sampling
from engine.errors import EngineUnreachable
from engine.launch import free_port

from ..talk import HISTORY, LONG, PAGE, QUESTIONS, asked_in_fork, say
from .running import LONG_PROMPT, ids, other_of, until_running

LONG_ANSWER = 100


async def test_a_turn_whose_engine_hangs_is_ended_by_another(
    engines, torpor, store, pool, new_session
):
    session = await new_session()
    home = (await say(torpor, session.id, *HISTORY))[-1].engine
    control = await long_turn_in_fork(torpor, session.id)
    with stopped(processes(engines[home])):
        began = time.monotonic()
        result = (await long_turn(torpor, session.id, lambda: stop(processes(engines[home]))))[-1]
        assert time.monotonic() - began < 30
        assert f"engine {home} failed after" in result.failed_over
        assert "neither answers nor gives a sign of life" in result.failed_over
        assert result.engine == other_of(home)
        assert result.token_ids == control.token_ids
        assert result.not_durable_because is None
        # It is not asked again before it gives a sign of life.
        assert [record.engine_id for record in await pool.records()] == [other_of(home)]
        control = await asked_in_fork(torpor, session.id)
        assert {(turn.engine, turn.failed_over) for turn in control} == {(other_of(home), None)}

    # It continues where it was, finds that nobody waits for that, and takes turns again.
    async with asyncio.timeout(60):
        while len(await pool.records()) < 2:
            pass
        back = await pool.named(home)
        while await back.client.load(timeout=60) != Load(0, 0, ANY):
            pass
    await (await pool.named(other_of(home))).drain(draining=True)
    again = await asked_in_fork(torpor, session.id)
    await (await pool.named(other_of(home))).drain(draining=False)
    assert {turn.engine for turn in again} == {home}
    assert ids(again) == ids(control)
    assert again[0].usage.recomputed_tokens <= PAGE
    assert (await store.check_integrity()).problems == []


@pytest.mark.parametrize("part", ["server", "scheduler"])
async def test_an_engine_of_which_one_process_hangs_is_given_up(second, pool, monkeypatch, part):
    monkeypatch.setattr("engine.pool.HANGS", 2.0)
    engine = await pool.named("second")
    server, *others = processes(second)
    schedulers = [process for process in others if "scheduler" in " ".join(process.cmdline())]
    hanging, why = {
        "server": ([server], "does not answer, though its heartbeat goes on"),
        "scheduler": (schedulers, "its schedulers give no heartbeat"),
    }[part]
    assert hanging
    with stopped(hanging):
        stop(hanging)
        with pytest.raises(EngineUnreachable, match=why):
            await engine.while_alive(first_chunk(engine))
    async with asyncio.timeout(60):
        while not await pool.with_boot(engine.record.boot_id):
            pass
    assert (await engine.while_alive(first_chunk(engine))).new_ids


async def test_a_turn_whose_engine_is_killed_in_the_middle_is_ended_by_another(
    engines, torpor, store, pool, new_session
):
    session = await new_session()
    before = (await say(torpor, session.id, *HISTORY))[-1]
    home = before.engine
    control = await long_turn_in_fork(torpor, session.id)
    assert control.engine == home
    dead = await pool.named(home)

    *texts, result = await killed_at_the_first_text(
        torpor, session.id, engines[home], top_logprobs=3
    )
    assert f"engine {home} failed after" in result.failed_over
    assert result.engine == other_of(home)
    assert result.token_ids == control.token_ids
    assert len(result.logprobs) == len(result.token_ids)
    assert "".join(text.text for text in texts) == result.text == control.text
    assert result.not_durable_because is None
    assert result.usage.recomputed_tokens <= PAGE
    # Its heartbeat still says that it lives: the next turn sees for itself that it does not.
    (turn,) = await say(torpor, session.id, QUESTIONS[0])
    assert (turn.engine, turn.failed_over) == (other_of(home), None)

    # The same engine, had it died just before a commit: what it had stored is not waited for, and
    # not lost.
    with pytest.raises(EngineUnreachable, match="ended or hangs"):
        await dead.settle([], timeout=600)
    commit, shortfall = await committed_anew(torpor, store, dead, before)
    assert "stored before it was gone" in shortfall
    assert commit.snapshot.boundary == before.boundary > 0
    assert (await store.check_integrity()).problems == []


@pytest.mark.slow
async def test_without_any_engine_a_session_is_kept_for_the_next_one(
    stage, engines, pool, torpor, new_session, tmp_path
):
    session = await new_session()
    turn = (await say(torpor, session.id, *HISTORY))[-1]
    control = await asked_in_fork(torpor, session.id)
    alive = [engine for engine in engines.values() if engine.is_alive()]
    with pytest.raises(ApiError, match="No other engine takes over") as failed:
        await killed_at_the_first_text(torpor, session.id, *alive)
    assert failed.value.code == "engine_unreachable"
    assert (await torpor.get(session.id)).head == turn.snapshot
    with pytest.raises(ApiError) as failed:
        await torpor.turn(session.id, QUESTIONS[0])
    assert failed.value.code == "no_engine"

    third = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent_runtime.cli", "engine", "up", "--engine-id", "third",
        "--redis", stage.store.url, "--data", str(tmp_path), "--port", str(free_port()),
        "--model", str(stage.model),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async for line in third.stderr:
        if b"serves at" in line:
            break
    again = await asked_in_fork(torpor, session.id)
    assert ids(again) == ids(control)
    assert again[0].usage.recomputed_tokens <= PAGE

    # SIGTERM lets a running turn end, then ends the engine.
    running = asyncio.create_task(torpor.turn(session.id, LONG_PROMPT))
    await until_running(await pool.named("third"), running)
    third.terminate()
    result = await running
    assert (result.engine, result.failed_over, result.not_durable_because) == ("third", None, None)
    _, said = await third.communicate()
    assert third.returncode == 0
    assert b"engine third is empty" in said


def processes(engine):
    """The server first."""
    server = psutil.Process(engine.pid)
    return [server, *server.children(recursive=True)]


def stop(hanging):
    for process in hanging:
        process.suspend()


@contextlib.contextmanager
def stopped(hanging):
    """Continues them at the end, whatever happened."""
    try:
        yield
    finally:
        for process in hanging:
            process.resume()


async def first_chunk(engine):
    sampling = Sampling(max_new_tokens=1, ignore_eos=True)
    chunks = engine.client.generate(range(3, 40), sampling, salt="anybody's")
    async with contextlib.aclosing(chunks):
        return await anext(chunks)


async def long_turn(torpor, session_id, at_first_text, **options):
    """The events of a long turn; `at_first_text` is called after the first."""
    events = []
    async for event in torpor.stream(session_id, LONG, max_tokens=LONG_ANSWER, **options):
        if isinstance(event, Progress):
            continue
        if not events:
            await asyncio.to_thread(at_first_text)
        events.append(event)
    return events


async def long_turn_in_fork(torpor, session_id):
    fork = await torpor.fork(session_id)
    (control,) = await say(torpor, fork.id, LONG, max_tokens=LONG_ANSWER)
    await torpor.delete(fork.id)
    assert len(control.token_ids) > LONG_ANSWER / 2
    return control


async def killed_at_the_first_text(torpor, session_id, *engines, **options):
    """What comes of a long turn during which these engines are killed."""

    def kill():
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda engine: engine.kill(), engines))

    return await long_turn(torpor, session_id, kill, **options)


async def committed_anew(torpor, store, engine, turn):
    """`turn`'s whole history, committed as one turn of a new session that `engine` ran."""
    head = await store.snapshot(turn.snapshot)
    tenant = await store.tenant("default")
    history = await Histories(store).of(head.id, engine.record.fingerprint, salt=tenant.salt)
    empty = await torpor.fork(turn.session_id, tokens=0)
    lease = await store.acquire(empty.id, ttl=30, owner="test")
    committed = await commit_turn(
        store,
        engine,
        await store.session(empty.id),
        lease,
        EMPTY,
        list(history.tokens),
        history.hashes,
        prompt_tokens=0,
        durability="memory",
        settle_timeout=600,
        boundary_interval=None,
    )
    await store.release(lease)
    assert await store.tokens(committed[0].snapshot.id) == history.tokens
    await torpor.delete(empty.id)
    return committed
