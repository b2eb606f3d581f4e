"""What a fork costs: in time as sessions grow, in memory, and when it begins in the middle.

session of 1K ──── fork ........ fork_short_s
session of 64K ─┬─ fork ........ fork_long_s
                └─ 12 forks .... storage_ratio
session of N ───┬─ fork at N/2 ── turn .... continue_s
                └─ llama.cpp: rewind to N/2, or read it anew ── read .... llama_continue_s
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import redis

from agent_runtime.bench.scene import ROOM, Scene, scene
from agent_runtime.bench.spread import quartiles
from agent_runtime.turns.boundaries import interval_of
from agent_runtime.wire.messages import Message
from engine.demo_model import dialogues
from engine.profiles import Profile

_FORKS = 12
_ANSWER = 16  # tokens at most
_TIME_GOAL = 1.2
_STORAGE_GOAL = 1.005


async def measure(
    *,
    short: int,
    long: int,
    told: int,
    rounds: int,
    profile: Profile,
    model: Path | None,
    data: Path,
) -> AsyncIterator[dict[str, Any]]:
    """Records of time, storage and the middle, then one of the goals. Starts a store, an engine
    and a runtime under `data`, which is emptied first.

    short, long: tokens of the sessions whose forks are timed; their state is made up
    told:        of the one that is continued from its middle, which the model reads
    """
    async with scene(profile, model, data, tokens=max(short, long, told)) as staged:
        sessions = await staged.written(short), await staged.written(long)
        timed = {"bench": "fork", "measure": "time", **await _timed(staged, sessions, rounds)}
        yield timed
        stored = {"bench": "fork", "measure": "storage", **await _stored(staged, sessions[1])}
        yield stored
        middle = {"bench": "fork", "measure": "middle", **await _from_middle(staged, told)}
        yield middle
    loses = []
    if timed["time_ratio"] > _TIME_GOAL:
        loses.append(f"time_ratio: {timed['time_ratio']}")
    if stored["storage_ratio"] > _STORAGE_GOAL:
        loses.append(f"storage_ratio: {stored['storage_ratio']}")
    if middle["recomputed_tokens"] > middle["boundary_interval"]:
        loses.append(f"recomputed_tokens from the middle: {middle['recomputed_tokens']}")
    met = not loses
    if middle["continue_s"] > middle["llama_continue_s"]:
        loses.append(
            f"continue_s to llama.cpp: {middle['continue_s']} to {middle['llama_continue_s']}"
        )
    yield {"bench": "fork", "measure": "goal", "met": met, "loses": loses}


async def _timed(staged: Scene, sessions: Sequence[str], rounds: int) -> dict[str, Any]:
    spent: dict[str, list[float]] = {session_id: [] for session_id in sessions}
    for number in range(-1, rounds):  # the first pair warms up
        for session_id in sessions if number % 2 else sessions[::-1]:
            started = time.perf_counter()
            fork = await staged.torpor.fork(session_id)
            seconds = time.perf_counter() - started
            await staged.torpor.delete(fork.id)
            if number >= 0:
                spent[session_id].append(seconds)
    shorts, longs = (spent[session_id] for session_id in sessions)
    ratios = [long / short for short, long in zip(shorts, longs, strict=True)]
    return {
        "rounds": rounds,
        "short_tokens": (await staged.torpor.get(sessions[0])).tokens,
        "long_tokens": (await staged.torpor.get(sessions[1])).tokens,
        "fork_short_s": round(statistics.median(shorts), 5),
        "fork_short_s_quartiles": quartiles(shorts, 5),
        "fork_long_s": round(statistics.median(longs), 5),
        "fork_long_s_quartiles": quartiles(longs, 5),
        "time_ratio": round(statistics.median(ratios), 3),
        "time_ratio_quartiles": quartiles(ratios, 3),
    }


async def _stored(staged: Scene, session_id: str) -> dict[str, Any]:
    before = _used(staged.stage.store.url)
    for _ in range(_FORKS):
        await staged.torpor.fork(session_id)
    after = _used(staged.stage.store.url)
    return {
        "forks": _FORKS,
        "bytes_before": before,
        "bytes_after": after,
        "storage_ratio": round(after / before, 5),
    }


def _used(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("memory")["used_memory_dataset"])


async def _from_middle(staged: Scene, tokens: int) -> dict[str, Any]:
    """A fork at half of a session's tokens, and a question there."""
    torpor = staged.torpor
    session_id = await staged.told(tokens, answer=_ANSWER)
    whole = await staged.ids(session_id)
    middle = len(whole) // 2
    question = dialogues.tick().user
    started = time.perf_counter()
    fork = await torpor.fork(session_id, tokens=middle)
    made = time.perf_counter() - started
    turn = await torpor.turn(fork.id, question, max_tokens=_ANSWER)
    assert turn.timing is not None, "a turn's result has its timing"
    delta = staged.chat.delta([Message(role="user", content=question)], ended=False)
    with staged.llama(len(whole) + ROOM) as llama:
        llama.read(whole)
        started = time.perf_counter()
        if kept := llama.rewind(middle):
            llama.read(delta)
        else:
            llama.clear()
            llama.read([*whole[:middle], *delta])
        theirs = time.perf_counter() - started
    return {
        "tokens": len(whole),
        "middle": middle,
        "boundary_interval": interval_of(await staged.engine(), None),
        "recomputed_tokens": turn.usage.recomputed_tokens,
        "continue_s": round(made + turn.timing.ttft_s, 4),
        "llama_recomputed_tokens": 0 if kept else middle,
        "llama_continue_s": round(theirs, 4),
    }
