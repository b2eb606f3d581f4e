"""What sessions take, awake and in the store."""

from __future__ import annotations

from dataclasses import dataclass

from engine.plan import stored
from engine.plan.models import Model
from engine.plan.question import Question
from engine.plan.sizes import TOKEN_LOG_BYTES, Layout, StateSize
from engine.plan.stored import Stored


@dataclass(frozen=True)
class SessionBytes:
    """Of one session at the full context. `rank`: what one rank holds; `model`: each byte once, as
    at one rank; `stored`: what all ranks write, KV heads that several hold included."""

    ssm: int
    conv: int
    kv: int
    draft_kv: int
    token_log: int

    @property
    def total(self) -> int:
        return self.ssm + self.conv + self.kv + self.draft_kv + self.token_log


@dataclass(frozen=True)
class Sharing:
    """Bytes of all sessions together when stored, by what they have in common.

    nothing: every session is its own; prefix: all begin with the same `shared_tokens`;
    forks: all were forked from one and have taken one turn since
    """

    nothing: Stored
    prefix: Stored
    forks: Stored


def bytes_of_session(question: Question, size: StateSize, *, ranks: int) -> SessionBytes:
    return SessionBytes(
        ssm=size.ssm * ranks,
        conv=size.conv * ranks,
        kv=size.kv_per_token * question.context * ranks,
        draft_kv=size.draft_kv_per_token * question.context * ranks,
        token_log=question.context * TOKEN_LOG_BYTES,
    )


def one_session(question: Question, model: Model, rank: StateSize, layout: Layout) -> Stored:
    """What one session takes that shares nothing."""
    ranks = layout.tp
    return (
        stored.kv(rank, ranks, question.context, model.page)
        + stored.states(rank, ranks, question.states)
        + stored.session_records()
    )


def one_turn(question: Question, model: Model, rank: StateSize, layout: Layout) -> Stored:
    """What a turn adds: the pages of its tokens, and a state at its prompt's end and at its own."""
    ranks = layout.tp
    return stored.kv(rank, ranks, question.turn_tokens, model.page) + stored.states(rank, ranks, 2)


def sharing_of(question: Question, model: Model, rank: StateSize, layout: Layout) -> Sharing:
    ranks, sessions = layout.tp, question.sessions
    one = one_session(question, model, rank, layout)
    shared = question.shared_tokens // model.page * model.page
    own = (
        stored.kv(rank, ranks, question.context - shared, model.page)
        + stored.states(rank, ranks, question.states)
        + stored.session_records()
    )
    turn = one_turn(question, model, rank, layout)
    return Sharing(
        nothing=one * sessions,
        prefix=stored.kv(rank, ranks, shared, model.page) + own * sessions,
        forks=one + (turn + stored.session_records()) * sessions,
    )
