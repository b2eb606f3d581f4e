"""Two engines over one store: who takes a turn, and what happens when one dies or is to be ended.

The first engine and the runtime are the whole folder's; the second is this module's. Starting one
is what takes time here, so only the last two tests kill engines; others stop and continue them.
The folder's engine is started again for the tests of other modules.
"""

import asyncio
import contextlib
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from unittest.mock import ANY

import httpx
import psutil
import pytest

from agent_runtime.demo.script import SYSTEM
from agent_runtime.messages.histories import EMPTY, Histories
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.turns import placing
from agent_runtime.turns.committing import commit_turn
from agent_runtime.wire.events import Progress
from engine.client import Load, Sampling
from engine.drain import drain
from engine.errors import EngineBusy, EngineUnreachable
from engine.launch import EngineOptions, EngineProcess, free_port
from engine.pool import EnginePool
from state_store.store import StateStore
from state_store.vault import Vault
from tests.serving import runtime_process

from .served import served
from .talk import HISTORY, PAGE, QUESTIONS, asked_in_fork, difference, say

# The model does not know where this ends: it repeats digits for long.
LONG = (
    'Repeat "warranty license closed license given harbour closed harbour given closed harbour '
    'closed 8979498491767153415225537531914839174624".'
)
LONG_ANSWER = 100
LONG_PROMPT = "Read this:\n" + "word " * 8000


@pytest.fixture(scope="module")
def second(stage, limited_url):
    """An engine like the stage's, on the same store, as the user that the docs describe."""
    log_file = Path(stage.layout.data) / "second.log"
    process = EngineProcess(
        EngineOptions(
            profile=stage.profile,
            redis_url=limited_url,
            log_file=log_file,
            model=stage.model,
            port=free_port(),
            engine_id="second",
        )
    )
    with process:
        process.wait_until_serving()
        yield process


@pytest.fixture(scope="module")
def engines(stage, second):
    """Both, by id."""
    yield {"engine": stage.engine, "second": second}
    if not stage.engine.is_alive():
        stage.engine.start()
        stage.engine.wait_until_serving()


@pytest.fixture
async def pool(store):
    pool = EnginePool(store)
    yield pool
    await pool.close()


@pytest.fixture
async def new_session(request, engines, torpor, registry):
    made = []

    async def new():
        system = f"{SYSTEM} {request.node.name} {len(made)}"  # no other test's, and no chance
        made.append(await torpor.create(system=system, tools=registry.specs()))
        return made[-1]

    yield new
    for session in made:
        await torpor.delete(session.id)


@pytest.fixture
def router(engines, tmp_path):
    """URL of a real router that sends each request to another engine than the last one."""
    port = free_port()
    command = [
        sys.executable, "-m", "sglang_router.launch_router",
        "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()),
        "--policy", "round_robin", "--health-check-endpoint", "/model_info",
        "--worker-urls", *(engine.url for engine in engines.values()),
    ]  # fmt: skip
    with (tmp_path / "router.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
async def routed(stage, router, tmp_path):
    """A runtime whose turns go through the router."""
    runtime = runtime_process(
        stage.store.url,
        tmp_path / "runtime.log",
        model=stage.model,
        options=["--router", router],
    )
    with runtime:
        await until_both_serve(router)
        async with Torpor(runtime.url) as client:
            yield client


async def until_both_serve(router_url):
    async with httpx.AsyncClient(base_url=router_url, trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                workers = (await client.get("/workers")).json()["workers"]
                if sum(worker["is_healthy"] for worker in workers) == 2:
                    return
            await asyncio.sleep(0.2)


def ids(turns):
    return [turn.token_ids for turn in turns]


def other_of(name):
    return {"engine": "second", "second": "engine"}[name]


async def test_new_sessions_are_spread_and_stay_where_they_are(torpor, new_session):
    sessions = [await new_session() for _ in range(2)]
    homes = []
    for session in sessions:
        (turn,) = await say(torpor, session.id, HISTORY[0])
        assert "least loaded of 2" in turn.engine_because
        homes.append(turn.engine)
    assert set(homes) == {"engine", "second"}
    for session, home in zip(sessions, homes, strict=True):
        for turn in await say(torpor, session.id, *QUESTIONS[:2]):
            assert turn.engine == home
            assert turn.engine_because == "it holds the session's head"
            assert turn.failed_over is None


async def test_a_fork_goes_where_its_parent_is(torpor, new_session):
    for session in [await new_session(), await new_session()]:
        (turn,) = await say(torpor, session.id, HISTORY[0])
        fork = await torpor.fork(session.id)
        (in_fork,) = await say(torpor, fork.id, QUESTIONS[0])
        await torpor.delete(fork.id)
        assert in_fork.engine == turn.engine
        assert in_fork.engine_because.startswith("it holds")
        assert in_fork.usage.recomputed_tokens <= PAGE


async def test_an_engine_that_is_draining_gives_its_sessions_to_another(
    torpor, store, pool, new_session
):
    session = await new_session()
    home = (await say(torpor, session.id, *HISTORY))[-1].engine
    control = await asked_in_fork(torpor, session.id)
    assert {turn.engine for turn in control} == {home}

    engine = await pool.named(home)
    drained = await drain(store, engine, timeout=60)
    assert (drained.durable, drained.shortfall) == ("fsync", None)
    elsewhere = await asked_in_fork(torpor, session.id)
    assert {turn.engine for turn in elsewhere} == {other_of(home)}
    assert difference(elsewhere, control).logprob_difference == 0
    assert elsewhere[0].usage.recomputed_tokens <= PAGE

    both = [engine, await pool.named(other_of(home))]
    await both[1].drain(draining=True)
    with pytest.raises(ApiError, match=r"engine \(draining\), second \(draining\)") as refused:
        await torpor.turn(session.id, QUESTIONS[0])
    assert refused.value.code == "no_engine"
    for engine in both:
        await engine.drain(draining=False)
    await say(torpor, session.id, QUESTIONS[0])


async def test_behind_a_router_every_engine_goes_on_with_every_session(routed, torpor, new_session):
    session = await new_session()
    control = await say(torpor, session.id, *HISTORY, *QUESTIONS)
    same = await routed.fork(session.id, tokens=0)
    turns = await say(routed, same.id, *HISTORY, *QUESTIONS)
    assert ids(turns) == ids(control)
    assert {turn.engine for turn in turns} == {"engine", "second"}
    moves = list(pairwise(turns))
    assert all(one.engine != other.engine for one, other in moves)
    assert all(other.usage.recomputed_tokens <= PAGE for _, other in moves)
    assert "router" in " ".join(turn.engine_because for turn in turns)
    assert all(turn.not_durable_because is None for turn in turns)
    await routed.delete(same.id)


@pytest.fixture
async def sealed(stage, router):
    """A runtime behind the router, of an encrypted tenant whose key only the first engine has."""
    name = f"sealed-{secrets.token_hex(4)}"
    vault = Vault.load(stage.master_key)
    async with await StateStore.connect(stage.store.url, vault=vault) as vaulted:
        await vaulted.create_tenant(name, encrypted=True)
        given = {"tenant": name, "master_key_source": stage.master_key, "router": router}
        async with served(stage, **given) as client:
            await until_both_serve(router)
            yield client
        assert (await vaulted.check_integrity()).problems == []
        await vaulted.delete_tenant(name)


async def test_behind_a_router_an_encrypted_session_goes_past_it_to_an_engine_with_the_key(
    request, sealed, torpor, new_session, registry
):
    session = await new_session()
    control = await say(torpor, session.id, *HISTORY, *QUESTIONS)
    system = f"{SYSTEM} {request.node.name} 0"  # the other one's
    same = await sealed.create(system=system, tools=registry.specs())
    turns = await say(sealed, same.id, *HISTORY, *QUESTIONS)
    assert ids(turns) == ids(control)
    assert {turn.engine for turn in turns} == {"engine"}
    assert all("past the router, since some lack master key" in t.engine_because for t in turns)
    assert all(turn.engine_because.endswith(": second") for turn in turns)
    assert all(turn.not_durable_because is None for turn in turns)
    assert all(turn.usage.recomputed_tokens <= PAGE for turn in turns[1:])


async def test_what_a_router_gives_to_an_engine_without_the_key_is_right_and_says_so(
    request, sealed, torpor, new_session, registry, pool, monkeypatch
):
    session = await new_session()
    control = await say(torpor, session.id, *HISTORY, *QUESTIONS)
    system = f"{SYSTEM} {request.node.name} 0"  # the other one's
    same = await sealed.create(system=system, tools=registry.specs())
    failed = (await (await pool.named("second")).counts(timeout=30)).failed_offloads
    # As if it had been started after the turn was placed.
    lacking = placing._lacking
    monkeypatch.setattr(placing, "_lacking", lambda key, of: lacking(key, of[:-1] or of))
    turns = await say(sealed, same.id, *HISTORY, *QUESTIONS)
    assert ids(turns) == ids(control)
    assert {turn.engine for turn in turns} == {"engine", "second"}
    for before, turn in pairwise(turns):
        if turn.engine == "second":
            assert "second, which lacks master key" in turn.usage.recompute_reason
            assert turn.boundary == before.boundary
        if turn.engine == "second" and turn.usage.prompt_tokens - turn.boundary > 2 * PAGE:
            assert "is encrypted under master key" in turn.not_durable_because
    assert (await (await pool.named("second")).counts(timeout=30)).failed_offloads > failed


async def test_draining_waits_for_running_turns(torpor, store, pool, new_session):
    session = await new_session()
    home = (await say(torpor, session.id, HISTORY[0]))[0].engine
    engine = await pool.named(home)
    turn = asyncio.create_task(torpor.turn(session.id, LONG_PROMPT))
    await until_running(engine, turn)
    with pytest.raises(EngineBusy, match="takes no new turns"):
        await drain(store, engine, timeout=0)
    drained = await drain(store, engine, timeout=120)
    assert drained.shortfall is None
    result = await turn
    assert (result.engine, result.failed_over, result.not_durable_because) == (home, None, None)
    await engine.drain(draining=False)


async def test_the_drain_command_drains_and_undoes_it(stage, torpor, new_session):
    session = await new_session()
    home = (await say(torpor, session.id, HISTORY[0]))[0].engine
    said = await command("engine", "drain", home, "--redis", stage.store.url)
    assert f"engine {home} is empty" in said
    assert "(fsync)" in said
    (elsewhere,) = await say(torpor, session.id, QUESTIONS[0])
    assert elsewhere.engine == other_of(home)
    await command("engine", "drain", home, "--redis", stage.store.url, "--undo")
    back = await new_session()
    await command("engine", "drain", other_of(home), "--redis", stage.store.url)
    assert (await say(torpor, back.id, HISTORY[0]))[0].engine == home
    await command("engine", "drain", other_of(home), "--redis", stage.store.url, "--undo")


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


async def until_running(engine, turn):
    while not turn.done():
        load = await engine.client.load(timeout=60)
        if load is not None and load.running + load.waiting:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"the turn was over too soon: {await turn}")


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


async def command(*arguments):
    """What a `torpor` command that succeeds prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent_runtime.cli", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said
    return said.decode()
