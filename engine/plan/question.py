"""What a plan is made for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.errors import ImpossiblePlan
from engine.profiles import gpu_types

_MOST = 10**12  # of anything that is counted: beyond, arithmetic takes long and says nothing
_COUNTS = ("gpus", "sessions", "context", "tp", "states", "turn_tokens")
_POSITIVE = (
    "turns_per_second", "store_bandwidth", "device_bandwidth", "prefill_rate", "redis_memory",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What somebody wants to run.

    model:             a profile's name or a checkpoint directory
    gpu, gpus:         the kind of accelerator, and how many there are
    sessions, context: how many sessions there are, and tokens in each
    precision:         of the weights: bf16, fp8, nvfp4; None for the checkpoint's own
    ssm_dtype, kv_dtype: override the profile's
    tp:                GPUs per engine; None for what lets most sessions run
    states:            recurrent states kept per session (a turn leaves two: at the prompt's end
                       and at its own)
    shared_tokens:     tokens that all sessions have in common at the beginning
    turn_tokens, turns_per_second: of all sessions together, for the bandwidth
    store_bandwidth:   bytes per second between one engine and the store
    device_bandwidth:  bytes per second from host memory to one GPU
    prefill_rate:      tokens per second of one engine, or None if unknown
    redis_memory:      bytes that Redis may use, or None if not to be checked
    """

    model: str
    gpu: str
    gpus: int
    sessions: int
    context: int
    precision: str | None = None
    ssm_dtype: str | None = None
    kv_dtype: str | None = None
    mtp: bool = True
    tp: int | None = None
    states: int = 2
    shared_tokens: int = 0
    turn_tokens: int = 1000
    turns_per_second: float = 1.0
    store_bandwidth: float = 1.25e9
    device_bandwidth: float = 25e9
    prefill_rate: float | None = None
    redis_memory: int | None = None


def require_sound(question: Question) -> None:
    """Raises ImpossiblePlan for what nobody can have: an accelerator that is not known, a number
    that is not one of what it counts."""
    if question.gpu not in gpu_types():
        raise ImpossiblePlan(
            f"no accelerator {question.gpu!r} is known; choose from {', '.join(gpu_types())}."
        )
    for name in _COUNTS:
        value = getattr(question, name)
        if value is not None:
            _require_count(name, value, least=1)
    _require_count("shared_tokens", question.shared_tokens, least=0)
    for name in _POSITIVE:
        value = getattr(question, name)
        if value is not None and not 0 < value < math.inf:  # NaN is not
            raise ImpossiblePlan(f"{name} is {value:g}; it must be above 0 and finite.")
    if question.shared_tokens > question.context:
        raise ImpossiblePlan(
            f"{question.shared_tokens} shared tokens do not fit a context of {question.context}."
        )


def _require_count(name: str, value: int, *, least: int) -> None:
    if not isinstance(value, int) or not least <= value <= _MOST:
        raise ImpossiblePlan(
            f"{name} is {value}; it must be a whole number from {least} to {_MOST}."
        )
