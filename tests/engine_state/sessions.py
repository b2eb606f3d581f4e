"""Several sessions and forks of one, on one engine: uninterrupted, and from what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from engine_cpu.server import PAGE_SIZE
from torch import Tensor

from engine.pool import Engine

from .linked import Answer, ask, ask_all, make_ready, random_tokens, stored_pages

TOLERANCE = 1e-4  # of log-probabilities: another batch, or another boundary, rounds otherwise
GRID = 256  # tokens: the longest distance of states in these tests
LENGTHS = [
    2 * PAGE_SIZE + 7,
    5 * PAGE_SIZE,
    9 * PAGE_SIZE + 33,
]  # the longest spans three prefill chunks


@dataclass(frozen=True)
class Sessions:
    """prompts: of a second turn and of forks; control: the answers of a run without a break;
    ready: tokens of each prompt up to the last boundary that is stored, none in a short one where
    states are far apart"""

    prompts: list[list[int]]
    control: list[Answer]
    ready: list[list[int]]


async def begin(engine: Engine, *, seed: int = 0) -> Sessions:
    """A first turn of each session and two more of the longest. Then, all at once, a second turn of
    each, and forks of the longest after each of its turns and inside the first."""
    first = [random_tokens(seed + length, length) for length in LENGTHS]
    told = [
        prompt + answer.ids
        for prompt, answer in zip(first, await ask_all(engine, first), strict=True)
    ]
    more = [random_tokens(seed + i, 21) for i in range(9)]
    ends = [told[-1]]
    for extra in more[7:]:
        prompt = ends[-1] + extra
        ends.append(prompt + (await ask(engine, prompt)).ids)
    fork_at = 7 * PAGE_SIZE + 5
    forks = [end + extra for end, extra in zip([*ends, told[-1][:fork_at]], more[3:], strict=False)]
    prompts = [*(told[i] + more[i] for i in range(3)), *forks]
    control = await ask_all(engine, prompts)
    ready = []
    for prompt in prompts:
        ready.append(prompt[: PAGE_SIZE * await stored_pages(engine, prompt)])
    assert all(len(tokens) >= fork_at // GRID * GRID for tokens in ready[2:])
    return Sessions(prompts, control, ready)


async def resume(engine: Engine, sessions: Sessions) -> list[Answer]:
    """The same turns from the store alone, which holds everything up to the boundaries."""
    for tokens in filter(None, sessions.ready):
        found = await make_ready(engine, tokens)
        assert (found.reason, found.state) == (None, True)
        assert found.pages == len(tokens) // PAGE_SIZE
    return await ask_all(engine, sessions.prompts)


def assert_right(sessions: Sessions, logprobs: Callable[[list[int]], Tensor]) -> None:
    """logprobs: another implementation's, float32[tokens, vocabulary] after each prefix"""
    for prompt, answer in zip(sessions.prompts, sessions.control, strict=True):
        expected = logprobs([*prompt, *answer.ids[:-1]])[len(prompt) - 1 :]
        assert expected.argmax(-1).tolist() == answer.ids
        chosen = expected.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        assert answer.top == pytest.approx(chosen.tolist(), abs=TOLERANCE)


def assert_resumed(sessions: Sessions, answers: list[Answer]) -> None:
    """The same tokens, and nothing that was ready computed again."""
    for answer, control, ready in zip(answers, sessions.control, sessions.ready, strict=True):
        assert answer.ids == control.ids
        assert answer.top == pytest.approx(control.top, abs=TOLERANCE)
        assert answer.cached >= len(ready)
