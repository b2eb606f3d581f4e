"""What a session of N tokens costs to wake, to go on with, to fork and to put to sleep again.

device empty ── resume ── turn .......... resume_ttft_s
                           └── turn ..... outside_s
                           ├── fork ..... fork_s
                           └── suspend .. suspend_s, bytes_written

The state of the sessions is made up. The lengths take turns; curves are fitted with a power of
tokens, and 0 is flat.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from agent_runtime.bench.scene import Scene, scene
from agent_runtime.bench.spread import power, quartiles
from agent_runtime.wire.turns import Timing, TurnResult
from engine.client import EngineClient
from engine.demo_model import dialogues
from engine.profiles import Profile

_ANSWER = 4  # tokens at most


async def measure(
    *, lengths: Sequence[int], rounds: int, profile: Profile, model: Path | None, data: Path
) -> AsyncIterator[dict[str, Any]]:
    """One record. Starts a store, an engine and a runtime under `data`, which is emptied first."""
    async with scene(profile, model, data, tokens=max(lengths)) as staged:
        yield await curves(staged, lengths, rounds)


async def curves(staged: Scene, lengths: Sequence[int], rounds: int) -> dict[str, Any]:
    """The record, of sessions that are made and deleted."""
    engine = EngineClient(staged.stage.engine.url, timeout=3600)
    sessions = [await staged.written(tokens) for tokens in lengths]
    spent: list[dict[str, list[float]]] = [{} for _ in lengths]
    try:
        for number in range(-1, rounds):  # the first round warms up
            for place in range(len(lengths)):
                at = (place + number) % len(lengths)
                for name, value in (await _once(staged, engine, sessions[at])).items():
                    if number >= 0:
                        spent[at].setdefault(name, []).append(value)
    finally:
        for session_id in sessions:
            await staged.torpor.delete(session_id)
        await engine.close()
    return _record(lengths, rounds, spent)


async def _once(staged: Scene, engine: EngineClient, session_id: str) -> dict[str, float]:
    torpor = staged.torpor
    await engine.flush()
    resumed = await torpor.resume(session_id, strict=True)
    woken = _timing(await torpor.turn(session_id, dialogues.tick().user, max_tokens=_ANSWER))
    going_on = _timing(await torpor.turn(session_id, dialogues.tick().user, max_tokens=_ANSWER))
    started = time.perf_counter()
    fork = await torpor.fork(session_id)
    forked = time.perf_counter() - started
    await torpor.delete(fork.id)
    suspended = await torpor.suspend(session_id)
    return {
        "resume_ttft_s": resumed.seconds + woken.ttft_s,
        "outside_s": going_on.ready_s + going_on.commit_s,
        "fork_s": forked,
        "suspend_s": suspended.seconds,
        "bytes_written": suspended.bytes_written,
    }


def _timing(turn: TurnResult) -> Timing:
    assert turn.timing is not None, "a turn's result has its timing"
    return turn.timing


def _record(
    lengths: Sequence[int], rounds: int, spent: Sequence[dict[str, list[float]]]
) -> dict[str, Any]:
    medians = {name: [round(statistics.median(at[name]), 4) for at in spent] for name in spent[0]}
    # Pages are written when they are full: in some rounds, and not in most.
    medians["bytes_written"] = [round(statistics.fmean(at["bytes_written"])) for at in spent]
    powers = {name: power(lengths, values) for name, values in medians.items()}
    written = medians.pop("bytes_written")
    return {
        "bench": "lengths",
        "over": "tokens",
        "points": list(lengths),
        "rounds": rounds,
        "seconds": medians,
        "quartiles": {name: [quartiles(at[name]) for at in spent] for name in medians},
        "bytes": {"bytes_written": written},
        "powers": powers,
    }
