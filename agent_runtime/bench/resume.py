"""How soon a session that sleeps in the store answers again, beside computing it all again.

document ── turn ── S ──┬── engine restarted ── resume ── question ...... restarted_ttft_s
                        ├── engine emptied ── resume ── question ........ resume_ttft_s
                        ├── question on the engine as it is then ........ hot_ttft_s
                        ├── SGLang alone, which knows nothing ........... reprefill_ttft_s
                        ├── SGLang alone, asked the same once more ...... alone_hot_ttft_s
                        └── llama.cpp: its own save ── restore ── read .. llama_ttft_s

All are asked the same in every round, and take turns in being first. SGLang alone is a second
engine with the same model and flags, without the linker.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_runtime.bench.peers.llama import LlamaProcess
from agent_runtime.bench.scene import ROOM, Scene, scene
from agent_runtime.bench.spread import quartiles
from agent_runtime.wire.turns import TurnResult
from engine.client import EngineClient, Sampling
from engine.demo_model import dialogues
from engine.launch import EngineProcess
from engine.profiles import Profile

_QUESTION = dialogues.tally(2).user
_ANSWER = 16  # tokens at most
_PATIENCE = 24 * 3600  # seconds
_RESTARTS = 3  # of the engine; one says little, for what comes first after it varies much


async def measure(
    *,
    lengths: Sequence[int],
    rounds: int,
    synthetic: bool,
    profile: Profile,
    model: Path | None,
    data: Path,
) -> AsyncIterator[dict[str, Any]]:
    """A record for each length. Starts a store, two engines and a runtime under `data`, which is
    emptied first.

    lengths: tokens of the sessions, about; their text is made up, or with `synthetic` their state
    as well: then nothing is prefilled, also not for comparison, and what others take is None.
    """
    async with scene(profile, model, data, tokens=max(lengths)) as staged:
        with contextlib.ExitStack() as stack:
            alone = None if synthetic else stack.enter_context(staged.stage.other_engine("alone"))
            if alone is not None:
                alone.wait_until_serving()
            for tokens in lengths:
                yield await _Bench(staged, alone, tokens).run(rounds)


@dataclass
class _Spent:
    """Seconds to the first token of each restart, and of each round."""

    restarted: list[float] = field(default_factory=list)
    resume: list[float] = field(default_factory=list)
    prefetch: list[float] = field(default_factory=list)
    hot: list[float] = field(default_factory=list)
    reprefill: list[float] = field(default_factory=list)
    alone_hot: list[float] = field(default_factory=list)
    llama: list[float] = field(default_factory=list)
    llama_restore: list[float] = field(default_factory=list)  # without reading the question


class _Bench:
    """One session. alone: SGLang without the linker, None if the session's state is made up"""

    def __init__(self, staged: Scene, alone: EngineProcess | None, tokens: int) -> None:
        self._scene = staged
        self._torpor = staged.torpor
        self._tokens = tokens
        self._alone = alone
        self._spent = _Spent()
        self._answers: list[Sequence[int]] = []
        self._session_id = ""
        self._turn: TurnResult

    async def run(self, rounds: int) -> dict[str, Any]:
        self._session_id = await (self._told() if self._alone else self._written())
        known = (await self._torpor.get(self._session_id)).tokens
        control = await self._ask(await self._fork())
        await self._torpor.suspend(self._session_id)
        for _ in range(_RESTARTS):
            self._scene.stage.restart_engine()
            self._spent.restarted.append(await self._answering(await self._fork()))
        async with contextlib.AsyncExitStack() as stack:
            engine = EngineClient(self._scene.stage.engine.url, timeout=_PATIENCE)
            stack.push_async_callback(engine.close)
            sides: list[Callable[[], Awaitable[None]]] = [self._resumed]
            if self._alone is not None:
                other = EngineClient(self._alone.url, timeout=_PATIENCE)
                stack.push_async_callback(other.close)
                prompt = await self._prompt(control)
                llama = stack.enter_context(self._scene.llama(known + ROOM))
                file = self._saved_by_llama(llama, prompt[:known])
                sides += [
                    lambda: self._asked_alone(other, prompt, len(control.token_ids)),
                    lambda: self._restored_by_llama(llama, file, prompt, known),
                ]
            for number in range(rounds + 1):  # the first one does not count
                await engine.flush()
                for side in sides[:: -1 if number % 2 else 1]:
                    await side()
        return self._record(known, rounds, control)

    async def _resumed(self) -> None:
        """On an engine that has been emptied; and once more while it knows the session."""
        self._spent.resume.append(await self._answering(await self._fork()))
        hot = await self._ask(await self._fork())
        self._spent.hot.append(_ttft(hot))
        self._answers.append(hot.token_ids)

    async def _answering(self, session_id: str) -> float:
        """Seconds of a resume and to the first token of the answer to a question."""
        started = time.perf_counter()
        await self._torpor.resume(session_id, strict=True)
        prefetch = time.perf_counter() - started
        self._turn = await self._ask(session_id)
        self._spent.prefetch.append(prefetch)
        self._answers.append(self._turn.token_ids)
        return prefetch + _ttft(self._turn)

    async def _asked_alone(self, client: EngineClient, prompt: list[int], count: int) -> None:
        await client.flush()
        for spent in (self._spent.reprefill, self._spent.alone_hot):
            ids, seconds = await _generated(client, prompt, count)
            spent.append(seconds)
            self._answers.append(ids)

    def _saved_by_llama(self, llama: LlamaProcess, history: list[int]) -> Path:
        file = self._scene.stage.files / "llama-state"
        llama.read(history)
        llama.save(file, history)
        return file

    async def _restored_by_llama(
        self, llama: LlamaProcess, file: Path, prompt: list[int], known: int
    ) -> None:
        """From the saved file of the session to the first token of the same answer."""
        count, restoring = llama.restore(file, known)
        assert count == known, f"llama.cpp restored {count} of {known} tokens"
        first, reading = llama.read(prompt[known:])
        self._spent.llama.append(restoring + reading)
        self._spent.llama_restore.append(restoring)
        self._answers.append([first])

    def _record(self, known: int, rounds: int, control: TurnResult) -> dict[str, Any]:
        spent, turn = self._spent, self._turn
        resumes = spent.resume[1:]
        record: dict[str, Any] = {
            "bench": "resume",
            "tokens": known,
            "synthetic": self._alone is None,
            "rounds": rounds,
            **_median("restarted_ttft_s", spent.restarted),
            **_median("resume_ttft_s", resumes),
            **_median("prefetch_s", spent.prefetch[-rounds:]),
            **_median("hot_ttft_s", spent.hot[1:]),
            **_median("reprefill_ttft_s", spent.reprefill[1:]),
            **_median("alone_hot_ttft_s", spent.alone_hot[1:]),
            **_median("llama_ttft_s", spent.llama[1:]),
            **_median("llama_restore_s", spent.llama_restore[1:]),
            "ratio": _ratio(spent.reprefill[1:], resumes, 1),
            "restarted_ratio": _ratio(
                spent.reprefill[1:], [statistics.median(spent.restarted)] * rounds, 1
            ),
            "llama_ratio": _ratio(resumes, spent.llama[1:], 2),
            "alone_hot_ratio": _ratio(resumes, spent.alone_hot[1:], 2),
            "reused_tokens": turn.usage.reused_tokens,
            "recomputed_tokens": turn.usage.recomputed_tokens,
            "identical": all(
                list(ids) == list(control.token_ids[: len(ids)]) for ids in self._answers
            ),
        }
        ours = record["resume_ttft_s"]
        record["loses"] = [
            f"resume_ttft_s to {peer} at {known} tokens: {ours} to {theirs}"
            for peer, theirs in (
                ("llama.cpp", record["llama_ttft_s"]),
                ("SGLang's cache in memory", record["alone_hot_ttft_s"]),
            )
            if theirs is not None and ours > theirs
        ]
        return record

    async def _told(self) -> str:
        return await self._scene.told(self._tokens, answer=_ANSWER)

    async def _written(self) -> str:
        """It is restored once, and has answered once."""
        session_id = await self._scene.written(self._tokens)
        await self._torpor.resume(session_id, strict=True)
        await self._torpor.turn(session_id, dialogues.tick().user, max_tokens=_ANSWER)
        return session_id

    async def _fork(self) -> str:
        return (await self._torpor.fork(self._session_id)).id

    async def _ask(self, session_id: str) -> TurnResult:
        return await self._torpor.turn(session_id, _QUESTION, max_tokens=_ANSWER)

    async def _prompt(self, turn: TurnResult) -> list[int]:
        assert turn.snapshot is not None, "the turn was not committed"
        said = await self._scene.store.tokens(turn.snapshot)
        return said[: turn.usage.prompt_tokens].tolist()


async def _generated(
    client: EngineClient, prompt: list[int], count: int
) -> tuple[list[int], float]:
    """`count` ids, and seconds to the first of them."""
    sampling = Sampling(max_new_tokens=count, ignore_eos=True)
    ids: list[int] = []
    started, first = time.perf_counter(), 0.0
    async for chunk in client.generate(array("I", prompt), sampling, salt="alone"):
        if chunk.new_ids and not ids:
            first = time.perf_counter() - started
        ids += chunk.new_ids
    return ids, first


def _median(name: str, values: Sequence[float]) -> dict[str, Any]:
    """With its quartiles; None where nothing was measured."""
    return {
        name: round(statistics.median(values), 3) if values else None,
        f"{name}_quartiles": quartiles(values, 3) if values else None,
    }


def _ratio(ones: Sequence[float], others: Sequence[float], digits: int) -> float | None:
    """The median of the rounds' ratios."""
    pairs = [one / other for one, other in zip(ones, others, strict=False)]
    return round(statistics.median(pairs), digits) if pairs else None


def _ttft(turn: TurnResult) -> float:
    assert turn.timing is not None, "a turn's result has its timing"
    return turn.timing.ttft_s
