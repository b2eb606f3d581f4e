"""How fast sessions come back, by the given bandwidths.

Formulas:
    resume    = max(stored bytes / store bandwidth, bytes per rank / host-to-device bandwidth)
                + the tail past the last state: at most `track interval` tokens / prefill rate
    prefill   = context / prefill rate
    break-even = the shortest history for which the resume without tail is faster:
                 states / bandwidth + n x KV / bandwidth = n / rate, solved for n
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.plan import stored
from engine.plan.models import Model
from engine.plan.question import Question
from engine.plan.sizes import Layout, StateSize
from engine.plan.stored import Stored


@dataclass(frozen=True)
class Times:
    """Seconds for one session, if nothing else uses the bandwidth. None where no rate was given."""

    resume: float
    resume_tail: float | None
    prefill: float | None
    break_even_tokens: int | None
    suspend_turn: float


def times_of(
    question: Question, model: Model, rank: StateSize, layout: Layout, turn: Stored
) -> Times:
    ranks = layout.tp
    store, rate = question.store_bandwidth, question.prefill_rate
    read = stored.kv(rank, ranks, question.context, model.page) + stored.states(rank, ranks, 1)
    on_rank = rank.per_token * question.context + rank.state
    resume = max(read.payload / store, on_rank / question.device_bandwidth)
    break_even = None
    if rate is not None:
        per_token = rank.per_token * ranks / store
        state = rank.state * ranks / store
        break_even = round(state / (1 / rate - per_token)) if per_token < 1 / rate else None
    return Times(
        resume=resume,
        resume_tail=None if rate is None else model.track_interval / rate,
        prefill=None if rate is None else question.context / rate,
        break_even_tokens=break_even,
        suspend_turn=turn.payload / store,
    )
