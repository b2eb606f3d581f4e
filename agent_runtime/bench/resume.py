"""How soon a session that sleeps in the store answers again, beside computing it all again.

document ── turn ── S ──┬── question on the engine as it is ............ control, hot_ttft_s
                        ├── engine emptied ── resume ── question ....... resume_ttft_s
                        ├── question under another salt, nothing known . reprefill_ttft_s
                        └── llama.cpp: its own save ── restore ── read . llama_ttft_s
"""

from __future__ import annotations

import time
from array import array
from pathlib import Path
from typing import Any

from agent_runtime.bench.scene import ROOM, Scene, scene
from agent_runtime.models import TurnResult
from engine.client import EngineClient, Sampling
from engine.demo_model import dialogues
from engine.profiles import Profile

_QUESTION = dialogues.tally(2).user
_ANSWER = 16  # tokens at most


async def measure(
    tokens: int, *, synthetic: bool, profile: Profile, model: Path | None, data: Path
) -> dict[str, Any]:
    """One record. Starts a store, an engine and a runtime under `data`, which is emptied first.

    tokens: of the session, about; its text is made up, or with `synthetic` its state as well:
    then nothing is prefilled, also not for comparison, and what others would take is None.
    """
    async with scene(profile, model, data, tokens=tokens) as staged:
        return await _Bench(staged, tokens).run(synthetic=synthetic)


class _Bench:
    def __init__(self, staged: Scene, tokens: int) -> None:
        self._scene = staged
        self._torpor = staged.torpor
        self._tokens = tokens
        self._engine = EngineClient(staged.stage.engine.url, timeout=24 * 3600)

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
                "llama_ttft_s": None,
                "llama_ratio": None,
                "hot_ttft_s": round(_ttft(control), 3),
                "prefetch_s": round(resumed.seconds, 3),
                "reused_tokens": turn.usage.reused_tokens,
                "recomputed_tokens": turn.usage.recomputed_tokens,
                "identical": turn.token_ids == control.token_ids,
                "loses": [],
            }
            if not synthetic:
                ids, seconds = await self._prefilled(turn)
                record["reprefill_ttft_s"] = round(seconds, 3)
                record["ratio"] = round(seconds / resume_ttft, 1)
                record["identical"] = record["identical"] and ids == turn.token_ids
                theirs = await self._restored_by_llama(turn, known)
                record["llama_ttft_s"] = round(theirs, 3)
                record["llama_ratio"] = round(resume_ttft / theirs, 2)
                if resume_ttft > theirs:
                    record["loses"] = [
                        f"resume_ttft_s to llama.cpp: {resume_ttft:.3f} to {theirs:.3f}"
                    ]
            return record
        finally:
            await self._engine.close()

    async def _told(self) -> str:
        return await self._scene.told(self._tokens, answer=_ANSWER)

    async def _written(self) -> str:
        """It is restored once, and has answered once."""
        session_id = await self._scene.written(self._tokens)
        await self._torpor.resume(session_id, strict=True)
        await self._torpor.turn(session_id, dialogues.tick().user, max_tokens=_ANSWER)
        return session_id

    async def _fork(self, session_id: str) -> str:
        return (await self._torpor.fork(session_id)).id

    async def _ask(self, session_id: str) -> TurnResult:
        return await self._torpor.turn(session_id, _QUESTION, max_tokens=_ANSWER)

    async def _prompt(self, turn: TurnResult) -> list[int]:
        assert turn.snapshot is not None, "the turn was not committed"
        said = await self._scene.store.tokens(turn.snapshot)
        return said[: turn.usage.prompt_tokens].tolist()

    async def _prefilled(self, turn: TurnResult) -> tuple[list[int], float]:
        """Ids and seconds to the first of them, on an engine that knows nothing of the prompt."""
        sampling = Sampling(max_new_tokens=len(turn.token_ids), ignore_eos=True)
        prompt = array("I", await self._prompt(turn))
        ids: list[int] = []
        started, first = time.perf_counter(), 0.0
        async for chunk in self._engine.generate(prompt, sampling, salt="nothing known"):
            if chunk.new_ids and not ids:
                first = time.perf_counter() - started
            ids += chunk.new_ids
        return ids, first

    async def _restored_by_llama(self, turn: TurnResult, known: int) -> float:
        """Seconds from the saved file of the session to the first token of the same answer."""
        prompt = await self._prompt(turn)
        file = self._scene.stage.files / "llama-state"
        with self._scene.llama(known + ROOM) as llama:
            llama.read(prompt[:known])
            llama.save(file, prompt[:known])
            count, restoring = llama.restore(file, known)
            assert count == known, f"llama.cpp restored {count} of {known} tokens"
            first, reading = llama.read(prompt[known:])
        assert first == turn.token_ids[0], "llama.cpp answers something else"
        seconds: float = restoring + reading
        return seconds


def _ttft(turn: TurnResult) -> float:
    assert turn.timing is not None, "a turn's result has its timing"
    return turn.timing.ttft_s
