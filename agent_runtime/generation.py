"""What came out of an engine for one turn, and what of the prompt it had to compute."""

from __future__ import annotations

from dataclasses import dataclass

from agent_runtime.histories import History
from agent_runtime.models import Usage
from engine.client import TokenLogprobs


@dataclass
class Generation:
    """What came out of the engine for one turn."""

    ids: list[int]
    logprobs: list[TokenLogprobs]
    cached_tokens: int = 0
    finish_reason: str = "length"
    accept_length: float | None = None
    first_token_at: float | None = None


def usage_of(
    history: History, prompt_delta: list[int], generation: Generation, reasons: list[str]
) -> Usage:
    reused = generation.cached_tokens
    recomputed = max(0, len(history.tokens) - reused)
    if reused < history.boundary and not reasons:
        reasons = ["the engine no longer held the head's boundary (evicted or flushed)"]
    return Usage(
        prompt_tokens=len(history.tokens) + len(prompt_delta),
        completion_tokens=len(generation.ids),
        reused_tokens=reused,
        recomputed_tokens=recomputed,
        boundary_tokens=history.boundary,
        recompute_reason="; ".join(reasons) or ("past the last boundary" if recomputed else None),
    )


def without_eos(ids: list[int], eos_id: int) -> list[int]:
    return ids[:-1] if ids and ids[-1] == eos_id else ids
