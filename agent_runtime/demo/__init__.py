"""The demo: a session is suspended, everything is killed, and it wakes up with proof.

1. An agent with two tools works through a long text.
2. Its continuation, and three branches from an earlier turn, run uninterrupted, for comparison.
3. Suspend. `kill -9` engine, runtime and store. Start all three again.
4. Resume, continue, fork the earlier turn three times; compare every token and logprob.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agent_runtime.demo.proof import TOP_LOGPROBS, Run, compare, play
from agent_runtime.demo.report import Outcome, report
from agent_runtime.demo.script import SYSTEM, Script, make_registry, source_text, write_script
from agent_runtime.demo.stage import Stage
from agent_runtime.graph import Agent, build_agent
from agent_runtime.sdk import Torpor
from engine.client import EngineClient, Sampling
from state_store.store import StateStore

PAGES = 10
_MAX_TOKENS = 96

_console = Console(stderr=True, highlight=False)


def run(*, data: Path, model: Path | None, text: Path | None, pages: int) -> int:
    """Run the demo; 0 if everything came back identical. The last line printed is JSON."""
    stage = Stage(data, model)
    name, content = source_text(text)
    (stage.files / name).write_text(content, "utf-8")
    script = write_script(content, pages)
    with _progress() as progress:
        outcome = asyncio.run(_act(stage, script, progress))
    return report(outcome)


async def _act(stage: Stage, script: Script, progress: Progress) -> Outcome:
    _start(stage, progress, "starting store, engine, runtime")
    try:
        async with Torpor(stage.runtime.url) as torpor:
            registry = make_registry(stage.files)
            agent = build_agent(torpor, registry, max_tokens=_MAX_TOKENS, top_logprobs=TOP_LOGPROBS)
            session = await torpor.create(system=SYSTEM, tools=registry.specs())
            with _bar(progress, "reading with tools", len(script.opening + script.reading)) as done:
                opening = await play(agent, session.id, script.opening, done)
                await play(agent, session.id, script.reading, done)
            with _bar(progress, "the same, uninterrupted", _length(script)) as done:
                control = await _continue_fork(torpor, agent, session.id, script, opening, done)
            suspended = await torpor.suspend(session.id)
            killed = stage.kill()
        _start(stage, progress, f"kill -9 {' '.join(map(str, killed))}; starting again")
        async with Torpor(stage.runtime.url) as torpor:
            agent = build_agent(torpor, registry, max_tokens=_MAX_TOKENS, top_logprobs=TOP_LOGPROBS)
            resumed = await torpor.resume(session.id, strict=True)
            with _bar(progress, "resumed: going on", _length(script)) as done:
                again = await play(agent, session.id, script.continuation, done)
                reprefill = await _reprefill_ttft(stage, again)
                fork_times: list[float] = []
                branches = []
                for said in script.branches:
                    started = time.perf_counter()
                    fork = await torpor.fork(session.id, snapshot=opening.head)
                    fork_times.append(time.perf_counter() - started)
                    branches.append(await play(agent, fork.id, said, done))
        pairs = [(control[0], again), *zip(control[1:], branches, strict=True)]
        return Outcome(
            suspended=suspended,
            resumed=resumed,
            first_turn=again.turns[0],
            runs=[again, *branches],
            comparisons=[compare(*pair) for pair in pairs],
            reprefill_ttft_s=reprefill,
            fork_s=statistics.median(fork_times),
            killed=killed,
        )
    finally:
        stage.stop()


async def _continue_fork(
    torpor: Torpor,
    agent: Agent,
    session_id: str,
    script: Script,
    opening: Run,
    done: Callable[[], object],
) -> list[Run]:
    """Run the continuation and the branches in forks that are deleted afterwards."""
    runs = []
    for snapshot, said in [
        (None, script.continuation),
        *((opening.head, branch) for branch in script.branches),
    ]:
        fork = await torpor.fork(session_id, snapshot=snapshot)
        runs.append(await play(agent, fork.id, said, done))
        await torpor.delete(fork.id)
    return runs


async def _reprefill_ttft(stage: Stage, again: Run) -> float:
    """Seconds to the first token of the resumed turn's prompt when nothing of it can be reused:
    the same ids under a salt that was never seen."""
    first = again.turns[0]
    assert first.snapshot is not None
    async with await StateStore.connect(stage.store.url) as store:
        tokens = await store.tokens(first.snapshot)
    prompt = tokens[: len(tokens) - len(first.token_ids)].tolist()
    client = EngineClient(stage.engine.url)
    try:
        seconds: float | None = None
        started = time.perf_counter()
        async for chunk in client.generate(
            prompt, Sampling(max_new_tokens=1), salt=secrets.token_hex(8)
        ):
            if chunk.new_ids and seconds is None:
                seconds = time.perf_counter() - started
        if seconds is None:
            raise AssertionError("the engine generated nothing")
        return seconds
    finally:
        await client.close()


def _length(script: Script) -> int:
    return len(script.continuation) + sum(map(len, script.branches))


def _start(stage: Stage, progress: Progress, what: str) -> None:
    task = progress.add_task(what, total=None)
    stage.start(lambda _: progress.refresh())
    progress.update(task, total=1, completed=1)


@contextmanager
def _bar(progress: Progress, what: str, total: int) -> Iterator[Callable[[], object]]:
    task = progress.add_task(what, total=total)
    yield lambda: progress.advance(task)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<42}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_console,
    )
