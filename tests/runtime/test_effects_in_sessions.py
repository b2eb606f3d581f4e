"""The agent loop never has an effect twice: its process is killed, its sessions are forked."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent_runtime.demo.script import SYSTEM
from agent_runtime.graph import STATE_TYPES, ask, build_agent
from agent_runtime.saver import TorporSaver
from agent_runtime.sdk import ApiError
from tests.runtime.dying_agent import POINTS, agent_of, counted, counting_calculator
from tools.effects import Effect, Entry, Repeat, Scope
from tools.registry import Registry
from tools.running import Executor

ROOT = Path(__file__).parents[2]
QUESTION = "What is 318 + 264?"


def die(stage, prefix: str, folder: Path, effect: Effect, point: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.runtime.dying_agent", stage.runtime.url, stage.store.url,
         prefix, folder, effect, point, QUESTION],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("effect", "point", "happened", "told"),
    [
        (Effect.IDEMPOTENT, POINTS[0], 1, "582"),
        (Effect.IDEMPOTENT, POINTS[1], 1, "582"),
        (Effect.IDEMPOTENT, POINTS[2], 1, "582"),
        (Effect.EFFECTFUL, POINTS[0], 0, "not known"),
        (Effect.EFFECTFUL, POINTS[1], 1, "not known"),
        (Effect.EFFECTFUL, POINTS[2], 1, "582"),
    ],
)
async def test_an_agent_that_is_killed_goes_on_without_repeating_an_effect(
    stage, torpor, tmp_path, effect, point, happened, told
):
    prefix = f"t{secrets.token_hex(4)}"
    await asyncio.to_thread(die, stage, prefix, tmp_path, effect, point)
    tool = counting_calculator(tmp_path, effect)
    async with await TorporSaver.connect(
        stage.store.url, prefix=prefix, types=STATE_TYPES
    ) as saver:
        agent = agent_of(torpor, saver, tool)
        thread = {"configurable": {"thread_id": "a"}}
        state = await agent.aget_state(thread)
        assert state.next == ("tools",)
        final = await agent.ainvoke(None, thread)
        # Back to the same checkpoint, once more.
        again = await agent.ainvoke(None, state.config)
    assert counted(tmp_path) == happened
    for steps in (final["steps"], again["steps"]):
        assert told in steps[1].text
    for session in {final["session_id"], again["session_id"]}:
        await torpor.delete(session)


async def test_a_fork_does_not_repeat_what_happened_before_it_unless_its_policy_says_so(
    torpor, tmp_path
):
    tool = counting_calculator(tmp_path, Effect.EFFECTFUL)
    session = await torpor.create(system=SYSTEM, tools=[tool.spec])
    await ask(build_agent(torpor, Registry([tool]), max_tokens=96), session, QUESTION)
    assert counted(tmp_path) == 1
    fork = await torpor.fork(session.id)
    asked = []

    async def again(repeated):
        asked.append((repeated.tool, repeated.earlier.branch))
        return Repeat.RUN

    agent = build_agent(torpor, Registry([tool]), max_tokens=96)
    steps = await ask(agent, fork.id, QUESTION)
    assert counted(tmp_path) == 1
    assert "did this before" in steps[1].text
    assert steps[1].notes == (f"its result is that of branch {session.id}",)

    other = await torpor.fork(session.id)
    executor = Executor(Registry([tool]), ledger=torpor.ledger, policy=again)
    steps = await ask(build_agent(torpor, executor, max_tokens=96), other.id, QUESTION)
    assert (steps[1].text, counted(tmp_path)) == ("582", 2)
    assert asked == [("calculator", session.id)]

    # In the session itself the same question is a new call.
    await ask(agent, session.id, QUESTION)
    assert counted(tmp_path) == 3
    for one in (session, fork, other):
        await torpor.delete(one.id)


async def test_the_ledger_takes_entries_of_its_own_session_only(torpor):
    session = await torpor.create(system=SYSTEM)
    entry = Entry(
        branch=session.id, point="p", position=0, tool="t", arguments_hash="0" * 64,
        effect=Effect.EFFECTFUL, scope=Scope.WORLD, at=0.0,
    )  # fmt: skip
    assert await torpor.ledger.begin(entry) is None
    assert await torpor.ledger.begin(entry) == entry
    body = entry.model_dump(mode="json") | {"branch": "ses-other"}
    with pytest.raises(ApiError, match="nothing was done") as refused:
        await torpor._requests.call("POST", f"/v1/sessions/{session.id}/effects/begin", body)
    assert refused.value.code == "bad_request"
    await torpor.delete(session.id)
