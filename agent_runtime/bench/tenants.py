"""Can one tenant tell by the clock, or by what is reused, what another one has asked?

victim ── asks P, or something else as long, by a coin ──┐
attacker ── asks P in a new session: hit or miss ────────┴── again: what its own cache tells it
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_runtime.demo.stage import Stage
from agent_runtime.deployment import RuntimeProcess
from agent_runtime.sdk import Torpor
from engine.launch import free_port
from engine.profiles import Profile
from state_store.store import StateStore

_WORDS = [
    "harbour", "warranty", "tide", "ship", "mile", "lantern", "cargo", "ledger", "anchor", "beacon",
]  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What the attacker saw of one prompt.

    known:     whether the victim had asked the same
    seconds, reused: of the attacker's first time; own_seconds, own_reused: of its second
    """

    known: bool
    seconds: float
    reused: int
    own_seconds: float
    own_reused: int


async def probe(
    victim: Torpor, attacker: Torpor, *, trials: int, words: int, seed: int
) -> list[Trial]:
    """Ask and be asked. As many prompts are known as not, in an order drawn from `seed`."""
    drawn = random.Random(seed)
    known = [number % 2 == 0 for number in range(trials)]
    drawn.shuffle(known)
    seen = []
    for is_known in known:
        prompt, other = (" ".join(drawn.choices(_WORDS, k=words)) for _ in range(2))
        await _ask(victim, prompt if is_known else other)
        seconds, reused = await _ask(attacker, prompt)
        own_seconds, own_reused = await _ask(attacker, prompt)
        seen.append(Trial(is_known, seconds, reused, own_seconds, own_reused))
    return seen


async def measure(
    *, trials: int, words: int, seed: int, profile: Profile, model: Path | None, data: Path
) -> dict[str, Any]:
    """One record. Starts a store, an engine and a runtime that asks for keys under `data`, which
    is emptied first."""
    stage = Stage(data, model, profile=profile)
    stage.start(lambda _: None)
    try:
        async with await StateStore.connect(stage.store.url) as store:
            keys = []
            for tenant in ("victim", "attacker"):
                await store.tenant(tenant)
                keys.append((await store.keys.create(tenant))[1])
        runtime = RuntimeProcess(
            redis_url=stage.store.url,
            archive=None,
            model=stage.model,
            port=free_port(),
            log_file=stage.layout.runtime_log,
            options=("--require-keys",),
        )
        with runtime:
            async with (
                Torpor(runtime.url, api_key=keys[0]) as victim,
                Torpor(runtime.url, api_key=keys[1]) as attacker,
            ):
                await probe(victim, attacker, trials=4, words=words, seed=seed + 1)  # warm-up
                seen = await probe(victim, attacker, trials=trials, words=words, seed=seed)
    finally:
        stage.stop()
    return record_of(seen)


def record_of(seen: Sequence[Trial]) -> dict[str, Any]:
    """See docs/bench-sessions.md."""
    hits = [trial.seconds for trial in seen if trial.known]
    misses = [trial.seconds for trial in seen if not trial.known]
    own = [trial.own_seconds for trial in seen]
    first = hits + misses
    sooner, p = rank_test(hits, misses)
    own_sooner, own_p = rank_test(own, first)
    return {
        "bench": "tenants",
        "trials": len(seen),
        "hit_s": round(statistics.median(hits), 4),
        "miss_s": round(statistics.median(misses), 4),
        "hit_is_sooner": round(sooner, 3),
        "p": round(p, 4),
        "own_s": round(statistics.median(own), 4),
        "own_is_sooner": round(own_sooner, 3),
        "own_p": round(own_p, 4),
        "reused_of_the_others": sum(trial.reused for trial in seen),
        "reused_of_its_own": sum(trial.own_reused for trial in seen),
    }


def rank_test(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mann and Whitney's: how probably a value of `one` is less than one of `other` (ties half),
    and the two-sided p of that being one half, by the normal approximation."""
    less = sum((a < b) + (a == b) / 2 for a in one for b in other)
    pairs = len(one) * len(other)
    spread = math.sqrt(pairs * (len(one) + len(other) + 1) / 12)
    return less / pairs, math.erfc(abs(less - pairs / 2) / spread / math.sqrt(2))


async def _ask(torpor: Torpor, prompt: str) -> tuple[float, int]:
    """Seconds to the whole answer of one token, as the client sees them, and reused tokens."""
    session = await torpor.create()
    started = time.perf_counter()
    result = await torpor.turn(session.id, prompt, max_tokens=1)
    seconds = time.perf_counter() - started
    await torpor.delete(session.id)
    return seconds, result.usage.reused_tokens
