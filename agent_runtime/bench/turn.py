"""What a turn costs besides the model: beside the engine's own generate, and as sessions grow.

    session of N tokens ──┬── fork ── turn n ............ through client, runtime, store
      (on the device)     └────────── POST /generate .... the same ids, the engine alone

Pairs take turns in going first, since the second finds the first one's prompt on the device. What
grows with the session is what comes before the prompt is sent and after the last token.

CPU seconds of the runtime and the store are compared as well. In them are the runtime's looks at
the engine, which are the more the longer the model takes. What they cost is measured in the same
run, by the same code at work in this process for as long, and taken off.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from agent_runtime.bench.spread import quartiles
from agent_runtime.bench.synthetic import write_session
from agent_runtime.demo.stage import Stage
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.sdk import Torpor
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.reporting import Reports
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnResult
from engine.demo_model import dialogues
from engine.lines import lines_of
from engine.pool import EnginePool
from engine.profiles import Profile
from state_store.store import StateStore

_SHORT = 1000  # tokens of the sessions that the ratio is of
_ANSWER = 128  # tokens at most
_FEW = 4  # tokens of the turns whose work is compared
_LEAST = 3  # turns of the long session, which take long
_ROOM = 4096
_LINE = "Mile {}: the harbour is closed, and the ship waits for the tide.\n"
_TENANT: str = RuntimeSettings.model_fields["tenant"].default


async def measure(
    *, rounds: int, long_tokens: int, profile: Profile, model: Path | None, data: Path
) -> dict[str, Any]:
    """One record. Starts a store, an engine and a runtime under `data`, which is emptied first.

    rounds:      pairs; a quarter as many turns of each session have their work compared
    long_tokens: of the long session, whose state is made up
    """
    context = min(profile.longest_context, long_tokens + _ROOM)
    stage = Stage(data, model, profile=profile.at_context(context))
    stage.start(lambda _: None)
    try:
        async with (
            Torpor(stage.runtime.url, timeout=3600) as torpor,
            await StateStore.connect(stage.store.url, timeout=60) as store,
            httpx.AsyncClient(base_url=stage.engine.url, timeout=3600, trust_env=False) as engine,
        ):
            bench = _Bench(stage, torpor, store, engine)
            return {
                "bench": "turn",
                **await bench.pairs(rounds),
                **await bench.growth(max(_LEAST, rounds // 4), long_tokens),
            }
    finally:
        stage.stop()


class _Bench:
    def __init__(
        self, stage: Stage, torpor: Torpor, store: StateStore, engine: httpx.AsyncClient
    ) -> None:
        self._torpor = torpor
        self._store = store
        self._engine = engine
        self._chat = ChatFormat(stage.model)
        self._url = stage.store.url
        self._model = stage.model
        self._ours = (stage.runtime.pid, stage.store.pid)

    async def pairs(self, rounds: int) -> dict[str, Any]:
        session_id = await self._told(_SHORT)
        salt = (await self._store.tenant(_TENANT)).salt
        turns, alone, results = [], [], []
        for number in range(-1, rounds):  # the first pair warms up
            question = _long_answer(number)
            fork = (await self._torpor.fork(session_id)).id
            prompt = await self._prompt(fork, question)
            if number % 2:
                seconds = await self._alone(prompt, salt)
                result, ours = await self._turn(fork, question, _ANSWER)
            else:
                result, ours = await self._turn(fork, question, _ANSWER)
                seconds = await self._alone(prompt, salt)
            await self._torpor.delete(fork)
            if number >= 0:
                turns.append(ours)
                alone.append(seconds)
                results.append(result)
        ratios = [ours / theirs for ours, theirs in zip(turns, alone, strict=True)]
        timings = [result.timing for result in results if result.timing is not None]
        return {
            "rounds": rounds,
            "tokens": results[0].usage.prompt_tokens,
            "answer_tokens": round(statistics.fmean(len(r.token_ids) for r in results), 1),
            "turn_s": round(statistics.median(turns), 4),
            "engine_s": round(statistics.median(alone), 4),
            "overhead_ratio": round(statistics.median(turns) / statistics.median(alone), 3),
            "overhead_ratio_quartiles": quartiles(ratios, 3),
            "commit_s": round(statistics.median(one.commit_s for one in timings), 4),
        }

    async def growth(self, rounds: int, long_tokens: int) -> dict[str, Any]:
        """The work of turns that add the same to a short and to a long session."""
        short, long = await self._told(_SHORT), await self._written(long_tokens)
        # Seconds outside the model, of CPU, until the first token, and from there to the last.
        works: dict[str, list[tuple[float, float, float, float]]] = {short: [], long: []}
        for number in range(-1, rounds):
            for session_id, work in works.items():
                before = self._cpu()
                result, _ = await self._turn(session_id, dialogues.tick().user, _FEW)
                assert result.timing is not None
                outside = result.timing.ready_s + result.timing.commit_s
                timing = result.timing
                waits = timing.ttft_s - timing.ready_s, timing.generate_s - timing.ttft_s
                if number >= 0:
                    work.append((outside, self._cpu() - before, *waits))
        (short_outside, short_cpu, *short_waits), (long_outside, long_cpu, *long_waits) = (
            tuple(statistics.median(column) for column in zip(*work, strict=True))
            for work in works.values()
        )
        growths = [b[0] / a[0] for a, b in zip(*works.values(), strict=True)]
        short_looks = await self._looks(short, short_waits)
        long_looks = await self._looks(long, long_waits)
        return {
            "long_rounds": rounds,
            "long_tokens": (await self._torpor.get(long)).tokens,
            "outside_1k_s": round(short_outside, 4),
            "outside_1m_s": round(long_outside, 4),
            "growth_1m": round(long_outside / short_outside, 2),
            "growth_1m_quartiles": quartiles(growths, 2),
            "cpu_1k_s": round(short_cpu, 4),
            "cpu_1m_s": round(long_cpu, 4),
            "model_1k_s": round(sum(short_waits), 3),
            "model_1m_s": round(sum(long_waits), 3),
            "looks_1k_s": round(short_looks, 4),
            "looks_1m_s": round(long_looks, 4),
            "cpu_growth_1m": round((long_cpu - long_looks) / (short_cpu - short_looks), 2),
        }

    async def _looks(self, session_id: str, waits: Sequence[float]) -> float:
        """CPU seconds, of runtime and store, of looks at the engine in a turn that waits so many
        seconds for its first token, and then for the others."""
        pool = EnginePool(self._store)
        engine = await pool.pick()
        settings = RuntimeSettings(redis_url=self._url, model_dir=self._model)
        store = self._ours[1]
        before = time.process_time() + _on_cpu(store)
        for seconds in waits:
            reports = Reports(session_id, lambda: engine, settings)
            waiting = engine.while_alive(asyncio.sleep(seconds))
            async for _ in reports.during(waiting, "load", "prefill", then=lambda _: None):
                pass
        spent = time.process_time() + _on_cpu(store) - before
        await pool.close()
        return spent

    def _cpu(self) -> float:
        """CPU seconds of everything but the engine, so far."""
        return sum(_on_cpu(pid) for pid in self._ours)

    async def _told(self, tokens: int) -> str:
        """A session that has read a text of about so many tokens."""
        session = await self._torpor.create()
        line = len(self._chat.encode(_LINE.format(100)))
        text = "".join(_LINE.format(mile) for mile in range(tokens // line))
        await self._torpor.turn(session.id, dialogues.read(text).user, max_tokens=_FEW)
        return session.id

    async def _written(self, tokens: int) -> str:
        """A session whose state was made up, restored and gone on with once."""
        pool = EnginePool(self._store)
        record = (await pool.pick()).record
        await pool.close()
        text = np.array(self._chat.encode(_LINE.format(0)), dtype=np.uint32)
        ids = array("I", np.resize(text, tokens).tobytes())
        ids[-1] = self._chat.eos_id
        session, _ = await write_session(self._store, self._url, record, ids, tenant=_TENANT)
        await self._torpor.resume(session.id, strict=True)
        return session.id

    async def _prompt(self, session_id: str, question: str) -> list[int]:
        """The ids that a turn with this question will send."""
        head = (await self._torpor.get(session_id)).head
        assert head is not None
        known = (await self._store.tokens(head)).tolist()
        messages = [Message(role="user", content=question)]
        return [*known, *self._chat.delta(messages, ended=known[-1] == self._chat.eos_id)]

    async def _turn(
        self, session_id: str, question: str, max_tokens: int
    ) -> tuple[TurnResult, float]:
        started = time.perf_counter()
        result = await self._torpor.turn(session_id, question, max_tokens=max_tokens)
        return result, time.perf_counter() - started

    async def _alone(self, prompt: Sequence[int], salt: str) -> float:
        """Seconds that the engine's own streamed generate takes, as any client would call it."""
        body = {
            "input_ids": list(prompt),
            "sampling_params": {
                "max_new_tokens": _ANSWER,
                "temperature": 0.0,
                "stop_token_ids": [self._chat.eos_id],
            },
            "cache_salt": salt,
            "stream": True,
        }
        started = time.perf_counter()
        async with self._engine.stream("POST", "/generate", json=body) as response:
            response.raise_for_status()
            async for line in lines_of(response):
                if line.startswith("data: {"):
                    json.loads(line[6:])
        return time.perf_counter() - started


def _long_answer(number: int) -> str:
    """Another question each time, with an answer of about the same length."""
    digits = "".join(str((number + 3) * 7919 * step % 10) for step in range(1, 40))
    return dialogues.repeat(f"harbour closed given licence {digits}").user


def _on_cpu(pid: int) -> float:
    """Seconds that a process's threads have run, to the microsecond: its usual accounting counts
    in hundredths."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
