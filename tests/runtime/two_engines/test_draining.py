"""An engine that is to be ended gives its sessions to the other."""

import asyncio
import sys

import pytest

from agent_runtime.sdk import ApiError
from engine.drain import drain
from engine.errors import EngineBusy

from ..talk import HISTORY, PAGE, QUESTIONS, asked_in_fork, difference, say
from .running import LONG_PROMPT, other_of, until_running


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


@pytest.mark.slow
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


async def command(*arguments):
    """What a `torpor` command that succeeds prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent_runtime.cli", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said
    return said.decode()
