"""What it takes to put a session to sleep after one more turn, beside llama.cpp's save of it all.

text of N tokens ── suspend ── turn ── suspend ── turn ── suspend …
                                         └─ bytes_written, suspend_s: what is new
llama.cpp: the same ids ......... save ........... save
                                   └─ llama_bytes, llama_save_s: everything, each time
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from agent_runtime.bench.scene import ROOM, Scene, scene
from agent_runtime.bench.spread import power, quartiles
from engine.demo_model import dialogues
from engine.profiles import Profile

_ANSWER = 16  # tokens at most
_WORDS = " ".join(("harbour", "licence", "tide", "warranty", "mile") * 20)  # more than a page
_BYTES_GOAL = 0.05  # of what llama.cpp writes, at the longest
_GROWTH_GOAL = 1.5  # of the longest session's suspend over the shortest's


async def measure(
    *, lengths: Sequence[int], rounds: int, profile: Profile, model: Path | None, data: Path
) -> AsyncIterator[dict[str, Any]]:
    """A record for each length, then one of the goals. Starts a store, an engine and a runtime
    under `data`, which is emptied first."""
    records = []
    async with scene(profile, model, data, tokens=max(lengths)) as staged:
        for tokens in lengths:
            records.append(await _at(staged, tokens, rounds))
            yield records[-1]
    yield _goals(records)


async def _at(staged: Scene, tokens: int, rounds: int) -> dict[str, Any]:
    torpor, file = staged.torpor, staged.stage.files / "llama-state"
    session_id = await staged.told(tokens, answer=_ANSWER)
    await torpor.suspend(session_id)
    ours: list[tuple[int, float]] = []
    theirs: list[tuple[int, float]] = []
    with staged.llama(tokens + ROOM) as llama:
        known = await staged.ids(session_id)
        llama.read(known)
        llama.save(file, known)  # both have saved once: what is measured is one more turn
        for _ in range(rounds):
            await torpor.turn(session_id, dialogues.read(_WORDS).user, max_tokens=_ANSWER)
            suspended = await torpor.suspend(session_id)
            ours.append((suspended.bytes_written, suspended.seconds))
            ids = await staged.ids(session_id)
            llama.read(ids[len(known) :])
            theirs.append(llama.save(file, ids))
            known = ids
    (ours_bytes, ours_s), (llama_bytes, llama_s) = (
        [statistics.median(column) for column in zip(*pairs, strict=True)]
        for pairs in (ours, theirs)
    )
    ratios = [one / other for (_, one), (_, other) in zip(ours, theirs, strict=True)]
    return {
        "bench": "suspend",
        "tokens": len(known),
        "rounds": rounds,
        "bytes_written": int(ours_bytes),
        "suspend_s": round(ours_s, 4),
        "suspend_s_quartiles": quartiles([seconds for _, seconds in ours]),
        "llama_bytes": int(llama_bytes),
        "llama_save_s": round(llama_s, 4),
        "llama_save_s_quartiles": quartiles([seconds for _, seconds in theirs]),
        "bytes_ratio": round(ours_bytes / llama_bytes, 4),
        "time_ratio": round(statistics.median(ratios), 2),
        "time_ratio_quartiles": quartiles(ratios, 2),
    }


def _goals(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first, last = records[0], records[-1]
    tokens, seconds = ([one[name] for one in records] for name in ("tokens", "suspend_s"))
    growth = seconds[-1] / seconds[0]
    longer = last["tokens"] / first["tokens"]
    loses = []
    if last["bytes_ratio"] > _BYTES_GOAL:
        loses.append(f"bytes_ratio at {last['tokens']} tokens: {last['bytes_ratio']}")
    if growth > _GROWTH_GOAL:
        loses.append(f"suspend_growth: {growth:.2f} over {longer:.0f} times the tokens")
    loses += [
        f"suspend_s to llama.cpp at {one['tokens']} tokens: {one['time_ratio']} times as long"
        for one in records
        if one["time_ratio"] > 1
    ]
    return {
        "bench": "suspend",
        "measure": "goal",
        "bytes_ratio": last["bytes_ratio"],
        "suspend_growth": round(growth, 2),
        "suspend_exponent": power(tokens, seconds) if len(records) > 1 else None,
        "met": last["bytes_ratio"] <= _BYTES_GOAL and growth <= _GROWTH_GOAL,
        "loses": loses,
    }
