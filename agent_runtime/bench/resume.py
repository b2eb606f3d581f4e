"""How soon a session that sleeps in the store answers again, beside computing it all again.

document ── turn ── S ──┬── question on the engine as it is ............ control, hot_ttft_s
                        ├── engine emptied ── resume ── question ....... resume_ttft_s
                        └── question under another salt, nothing known . reprefill_ttft_s
"""

from __future__ import annotations

import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from agent_runtime.bench.synthetic import write_session
from agent_runtime.chat import ChatFormat
from agent_runtime.demo.stage import Stage
from agent_runtime.models import TurnResult
from agent_runtime.sdk import Torpor
from agent_runtime.settings import RuntimeSettings
from engine.client import EngineClient, Sampling
from engine.demo_model import dialogues
from engine.pool import EnginePool
from engine.profiles import Profile
from state_store.store import StateStore

_QUESTION = dialogues.tally(2).user
_ANSWER = 16  # tokens at most
_ROOM = 4096  # tokens of context for what is said after the document
_LINE = (
    "Mile {}: the harbour is closed, a warranty is not given, and the ship waits for the tide.\n"
)
_TENANT: str = RuntimeSettings.model_fields["tenant"].default


async def measure(
    tokens: int, *, synthetic: bool, profile: Profile, model: Path | None, data: Path
) -> dict[str, Any]:
    """One record. Starts a store, an engine and a runtime under `data`, which is emptied first.

    tokens: of the session, about; its text is made up, or with `synthetic` its state as well:
    then nothing is prefilled, also not for comparison, and `reprefill_ttft_s` is None.
    """
    stage = Stage(data, model, profile=profile.at_context(_context(profile, tokens)))
    stage.start(lambda _: None)
    try:
        async with (
            Torpor(stage.runtime.url, timeout=3600) as torpor,
            await StateStore.connect(stage.store.url, timeout=60) as store,
        ):
            return await _Bench(stage, torpor, store, tokens).run(synthetic=synthetic)
    finally:
        stage.stop()


def _context(profile: Profile, tokens: int) -> int:
    return min(profile.longest_context, tokens + _ROOM)


class _Bench:
    def __init__(self, stage: Stage, torpor: Torpor, store: StateStore, tokens: int) -> None:
        self._stage = stage
        self._torpor = torpor
        self._store = store
        self._tokens = tokens
        self._chat = ChatFormat(stage.model)
        self._engine = EngineClient(stage.engine.url, timeout=24 * 3600)

    async def run(self, *, synthetic: bool) -> dict[str, Any]:
        try:
            session_id = await (self._written() if synthetic else self._told())
            known = (await self._torpor.get(session_id)).tokens
            control = await self._ask(await self._fork(session_id))
            await self._torpor.suspend(session_id)
            await self._engine.flush()
            fork = await self._fork(session_id)
            resumed = await self._torpor.resume(fork, strict=True)
            turn = await self._ask(fork)
            resume_ttft = resumed.seconds + _ttft(turn)
            record: dict[str, Any] = {
                "bench": "resume",
                "tokens": known,
                "synthetic": synthetic,
                "resume_ttft_s": round(resume_ttft, 3),
                "reprefill_ttft_s": None,
                "ratio": None,
                "hot_ttft_s": round(_ttft(control), 3),
                "prefetch_s": round(resumed.seconds, 3),
                "reused_tokens": turn.usage.reused_tokens,
                "recomputed_tokens": turn.usage.recomputed_tokens,
                "identical": turn.token_ids == control.token_ids,
            }
            if not synthetic:
                ids, seconds = await self._prefilled(turn)
                record["reprefill_ttft_s"] = round(seconds, 3)
                record["ratio"] = round(seconds / resume_ttft, 1)
                record["identical"] = record["identical"] and ids == turn.token_ids
            return record
        finally:
            await self._engine.close()

    async def _told(self) -> str:
        """A session that has read a text and answered."""
        session = await self._torpor.create()
        line = len(self._chat.encode(_LINE.format(10_000)))
        text = "".join(_LINE.format(mile) for mile in range(max(1, self._tokens // line)))
        await self._torpor.turn(session.id, dialogues.read(text).user, max_tokens=_ANSWER)
        return session.id

    async def _written(self) -> str:
        """A session whose state was made up; it is restored once, and has answered once."""
        pool = EnginePool(self._store)
        record = (await pool.pick()).record
        await pool.close()
        text = np.array(self._chat.encode(_LINE.format(0)), dtype=np.uint32)
        tokens = array("I", np.resize(text, self._tokens).tobytes())
        tokens[-1] = self._chat.eos_id
        session, _ = await write_session(
            self._store, self._stage.store.url, record, tokens, tenant=_TENANT
        )
        await self._torpor.resume(session.id, strict=True)
        await self._torpor.turn(session.id, dialogues.tick().user, max_tokens=_ANSWER)
        return session.id

    async def _fork(self, session_id: str) -> str:
        return (await self._torpor.fork(session_id)).id

    async def _ask(self, session_id: str) -> TurnResult:
        return await self._torpor.turn(session_id, _QUESTION, max_tokens=_ANSWER)

    async def _prefilled(self, turn: TurnResult) -> tuple[list[int], float]:
        """Ids and seconds to the first of them, on an engine that knows nothing of the prompt."""
        assert turn.snapshot is not None, "the turn was not committed"
        prompt = (await self._store.tokens(turn.snapshot))[: turn.usage.prompt_tokens]
        sampling = Sampling(max_new_tokens=len(turn.token_ids), ignore_eos=True)
        ids: list[int] = []
        started, first = time.perf_counter(), 0.0
        async for chunk in self._engine.generate(prompt, sampling, salt="nothing known"):
            if chunk.new_ids and not ids:
                first = time.perf_counter() - started
            ids += chunk.new_ids
        return ids, first


def _ttft(turn: TurnResult) -> float:
    assert turn.timing is not None, "a turn's result has its timing"
    return turn.timing.ttft_s
