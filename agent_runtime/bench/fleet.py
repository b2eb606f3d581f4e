"""Many agents with tools on an engine of few slots, for some minutes: waits, and what was lost.

agents (one session each) ──turns──► runtime ──slots──► engine ◄──state──► store
     └── tools take a while: their sessions leave the device meanwhile
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from agent_runtime.bench.agents import Agents, audit
from agent_runtime.demo.stage import Stage
from agent_runtime.scheduling.simulate import percentile
from agent_runtime.sdk import Torpor
from engine.profiles import Profile
from state_store.store import StateStore

_LEAST = 2  # turns of each agent on the slowest machine: the second one has a state to restore
_SAMPLE = 10.0  # seconds
_STATES = 24  # state slots on the device per turn that runs
_SETTLED = 1 / 3  # of the run, after which memory should not grow any more


async def measure(
    *,
    sessions: int,
    slots: int,
    seconds: float,
    seed: int,
    profile: Profile,
    model: Path | None,
    data: Path,
) -> AsyncIterator[dict[str, Any]]:
    """A record every ten seconds, then the result. Starts a store, an engine and a runtime under
    `data`, which is emptied first.

    slots: turns that the engine computes at once
    """
    sizes = {"max-running-requests": slots, "max-mamba-cache-size": _STATES * slots}
    profile = dataclasses.replace(profile, arguments={**profile.arguments, **sizes})
    stage = Stage(data, model, profile=profile)
    stage.start(lambda _: None)
    try:
        async with (
            Torpor(stage.runtime.url) as torpor,
            await StateStore.connect(stage.store.url) as store,
        ):
            async for record in _Fleet(stage, torpor, store, seed).run(sessions, seconds):
                yield record
    finally:
        stage.stop()


def growth(samples: Sequence[tuple[float, int, int]], seconds: float) -> dict[str, list[int]]:
    """Memory when all had settled, and at the end, of which a short run is told twice.

    samples: seconds since the start, bytes of the runtime and of the engine
    """
    last = samples[-1]
    settled = next((row for row in samples if row[0] >= seconds * _SETTLED), last)
    return {
        "runtime_mb": [settled[1] >> 20, last[1] >> 20],
        "engine_mb": [settled[2] >> 20, last[2] >> 20],
    }


class _Fleet:
    def __init__(self, stage: Stage, torpor: Torpor, store: StateStore, seed: int) -> None:
        self._torpor = torpor
        self._store = store
        self._runtime = psutil.Process(stage.runtime.pid)
        self._engine = psutil.Process(stage.engine.pid)
        self._agents = Agents([torpor], seed=seed, least=_LEAST)
        self._memory: list[tuple[float, int, int]] = []

    async def run(self, sessions: int, seconds: float) -> AsyncIterator[dict[str, Any]]:
        await self._agents.create(sessions)
        began = time.monotonic()
        working = asyncio.create_task(self._agents.work(lambda: time.monotonic() - began > seconds))
        try:
            while not working.done():
                yield await self._sample(time.monotonic() - began)
                await asyncio.wait([working], timeout=_SAMPLE)
            await working
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
        yield await self._result(time.monotonic() - began, seconds)

    async def _sample(self, at: float) -> dict[str, Any]:
        runtime, engine = self._runtime.memory_info().rss, _family(self._engine)
        self._memory.append((at, runtime, engine))
        row = {"bench": "fleet", "at_s": round(at, 1), "turns": len(self._answered())}
        for slots in await self._torpor.scheduling():
            row |= {
                "running": slots.running,
                "waiting": sum(slots.waiting.values()),
                "resident": slots.resident,
                "away": slots.away,
            }
        return row | {"runtime_mb": runtime >> 20, "engine_mb": engine >> 20}

    def _answered(self) -> list[Any]:
        return [turn for agent in self._agents.agents for turn in agent.answered]

    async def _result(self, took: float, seconds: float) -> dict[str, Any]:
        agents = self._agents.agents
        answered = [turn.result for turn in self._answered()]
        known = [result for result in answered if result.parent is not None]
        spared = [r for r in known if r.usage.reused_tokens >= r.usage.boundary_tokens]
        timings = [result.timing for result in answered if result.timing is not None]
        ttfts = [timing.ttft_s for timing in timings]
        queued = [timing.queued_s for timing in timings]
        ledger = await audit(self._torpor, agents)
        report = await self._store.check_integrity()
        (slots,) = await self._torpor.scheduling()
        return {
            "bench": "fleet",
            "sessions": len(agents),
            "slots": slots.slots,
            "seconds": round(took, 1),
            "turns": len(answered),
            "turns_in_store": ledger.turns,
            "lost": ledger.lost,
            "doubled": ledger.doubled,
            "store_problems": len(report.problems),
            "failed": sum(agent.broken_off for agent in agents),
            "refused": sum(agent.refused for agent in agents),
            "fewest_turns": min(len(agent.answered) for agent in agents),
            "most_turns": max(len(agent.answered) for agent in agents),
            "ttft_p50_s": round(percentile(ttfts, 0.5), 3),
            "ttft_p95_s": round(percentile(ttfts, 0.95), 3),
            "wait_p50_s": round(percentile(queued, 0.5), 3),
            "wait_p95_s": round(percentile(queued, 0.95), 3),
            "without_reprefill": round(len(spared) / max(1, len(known)), 4),
            "starts": slots.starts,
            "suspended": slots.suspended,
            "prefetched": slots.prefetched,
            **growth(self._memory, seconds),
        }


def _family(process: psutil.Process) -> int:
    """Resident bytes of a process and its children."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
