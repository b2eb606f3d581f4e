"""What fits, what it costs to keep, and how fast it comes back: arithmetic, nothing is started.

    plan(Question(model="nemotron-3-super", gpu="H100", gpus=8, sessions=200, context=262144))

Everything is derived from the model's dimensions (`architecture.py`), the formulas of `sizes.py`,
`weights.py`, `device.py`, `stored.py` and `times.py`, and a profile's data file.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ImpossiblePlan
from engine.plan.engines import Engines, best_engines
from engine.plan.launch import launch_of
from engine.plan.models import model_of
from engine.plan.question import Question, require_sound
from engine.plan.sessions import (
    SessionBytes,
    Sharing,
    bytes_of_session,
    one_session,
    one_turn,
    sharing_of,
)
from engine.plan.sizes import Layout, rank_size
from engine.plan.times import Times, times_of

__all__ = ["Engines", "Plan", "Question", "SessionBytes", "Sharing", "Times", "plan"]

_GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """has_mtp:         whether the model has the head, used or not
    kv_bytes_per_token, state_bytes: of the model, each byte once

    state_pays_from: tokens whose KV weighs as much as one state: states closer together than that
                     cost more than the KV between them
    turn_bytes:      what a turn of `turn_tokens` adds to the store
    write_bandwidth, read_bandwidth: bytes per second at `turns_per_second`; reading assumes that
                     every turn begins with a resume
    launch:          a command line that starts one engine of this plan
    """

    question: Question
    precision: str
    has_mtp: bool
    engines: Engines
    model_bytes: SessionBytes
    rank_bytes: SessionBytes
    stored_bytes: SessionBytes
    page_tokens: int
    page_bytes_per_rank: int
    state_bytes: int
    kv_bytes_per_token: int
    state_pays_from: int
    redis: Sharing
    turn_bytes: int
    write_bandwidth: float
    read_bandwidth: float
    archive_bytes: int
    times: Times
    launch: tuple[str, ...]


def plan(question: Question) -> Plan:
    """Raises ImpossiblePlan, with the reason and what would fit."""
    require_sound(question)
    model = model_of(question.model, question.precision, question.gpu)
    model = model.with_dtypes(kv=question.kv_dtype, ssm=question.ssm_dtype)
    if question.context > model.longest_context:
        raise ImpossiblePlan(
            f"{model.name} goes up to {model.longest_context} tokens, not {question.context}."
        )
    engines, group = best_engines(question, model)
    layout = Layout(engines.tp)
    model = model.divided(question.gpu, layout, mtp=question.mtp)
    rank = rank_size(model.architecture, model.dtypes, layout, mtp=question.mtp)
    once = rank_size(model.architecture, model.dtypes, Layout(), mtp=question.mtp)
    redis = sharing_of(question, model, rank, layout)
    if question.redis_memory is not None and redis.nothing.memory > question.redis_memory:
        each = redis.nothing.memory / question.sessions
        raise ImpossiblePlan(
            f"{question.sessions} suspended sessions take {redis.nothing.memory / _GIB:.1f} GiB "
            f"of Redis memory, {question.redis_memory / _GIB:.1f} GiB are given. "
            f"{int(question.redis_memory // each)} sessions would fit; an archive takes the rest."
        )
    turn = one_turn(question, model, rank, layout)
    session = one_session(question, model, rank, layout)
    return Plan(
        question=question,
        precision=model.precision,
        has_mtp=model.architecture.draft_layers > 0,
        engines=engines,
        model_bytes=bytes_of_session(question, once, ranks=1),
        rank_bytes=bytes_of_session(question, rank, ranks=1),
        stored_bytes=bytes_of_session(question, rank, ranks=layout.tp),
        page_tokens=model.page,
        page_bytes_per_rank=model.page * rank.per_token,
        state_bytes=once.state,
        kv_bytes_per_token=once.kv_per_token,
        state_pays_from=round(once.state / once.kv_per_token),
        redis=redis,
        turn_bytes=turn.payload,
        write_bandwidth=turn.payload * question.turns_per_second,
        read_bandwidth=session.payload * question.turns_per_second,
        archive_bytes=redis.nothing.payload,
        times=times_of(question, model, rank, layout, turn),
        launch=launch_of(question, model, engines, group),
    )
