"""What fits, what it costs to keep, and how fast it comes back: arithmetic, nothing is started.

    plan(Question(model="nemotron-3-super", gpu="H100", gpus=8, sessions=200, context=262144))

Everything is derived from the model's dimensions (`architecture.py`), the formulas of `sizes.py`,
`weights.py`, `device.py` and `stored.py`, and a profile's data file. Times follow from the given
bandwidths:

    resume    = max(stored bytes / store bandwidth, bytes per rank / host-to-device bandwidth)
                + the tail past the last state: at most `track interval` tokens / prefill rate
    prefill   = context / prefill rate
    break-even = the shortest history for which the resume without tail is faster:
                 states / bandwidth + n x KV / bandwidth = n / rate, solved for n
    a state pays from `state bytes / KV bytes per token` tokens on: states closer together than that
                 cost more than the KV between them
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import psutil

from engine.errors import ImpossiblePlan
from engine.plan import stored
from engine.plan.device import SLOTS, DeviceFit, fit
from engine.plan.models import Model, model_of
from engine.plan.sizes import TOKEN_LOG_BYTES, Layout, StateSize, rank_size, why_not
from engine.plan.stored import Stored
from engine.profiles import PROFILES, gpu_types

_GIB = 1 << 30
_COUNTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Question:
    """What somebody wants to run.

    model:             a profile's name or a checkpoint directory
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


@dataclass(frozen=True)
class Engines:
    """count: engines of `tp` GPUs each; the other figures are per engine or per GPU, in bytes.

    kv_copies: how many ranks hold the same KV head
    running, resident: sessions of the full context on all engines together
    """

    count: int
    tp: int
    memory_per_gpu: int
    weights_total: int
    weights_per_gpu: int
    pools_per_gpu: int
    kv_copies: int
    running: int
    resident: int


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


@dataclass(frozen=True)
class Times:
    """Seconds for one session, if nothing else uses the bandwidth. None where no rate was given."""

    resume: float
    resume_tail: float | None
    prefill: float | None
    break_even_tokens: int | None
    suspend_turn: float


@dataclass(frozen=True)
class Plan:
    """has_mtp:         whether the model has the head, used or not
    kv_bytes_per_token, state_bytes: of the model, each byte once

    state_pays_from: tokens whose KV weighs as much as one state
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
    _check(question)
    model = model_of(question.model, question.precision, question.gpu)
    model = model.with_dtypes(kv=question.kv_dtype, ssm=question.ssm_dtype)
    if question.context > model.longest_context:
        raise ImpossiblePlan(
            f"{model.name} goes up to {model.longest_context} tokens, not {question.context}."
        )
    engines, group = _best_engines(question, model)
    layout = Layout(engines.tp)
    model = model.divided(question.gpu, layout, mtp=question.mtp)
    rank = rank_size(model.architecture, model.dtypes, layout, mtp=question.mtp)
    once = rank_size(model.architecture, model.dtypes, Layout(), mtp=question.mtp)
    redis = _redis(question, model, rank, layout)
    if question.redis_memory is not None and redis.nothing.memory > question.redis_memory:
        each = redis.nothing.memory / question.sessions
        raise ImpossiblePlan(
            f"{question.sessions} suspended sessions take {redis.nothing.memory / _GIB:.1f} GiB "
            f"of Redis memory, {question.redis_memory / _GIB:.1f} GiB are given. "
            f"{int(question.redis_memory // each)} sessions would fit; an archive takes the rest."
        )
    turn = _turn(question, model, rank, layout)
    session = _one(question, model, rank, layout)
    return Plan(
        question=question,
        precision=model.precision,
        has_mtp=model.architecture.draft_layers > 0,
        engines=engines,
        model_bytes=_session(question, once, ranks=1),
        rank_bytes=_session(question, rank, ranks=1),
        stored_bytes=_session(question, rank, ranks=layout.tp),
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
        times=_times(question, model, rank, layout, turn),
        launch=_launch(question, model, engines, group),
    )


def _check(question: Question) -> None:
    if question.gpu not in gpu_types():
        raise ImpossiblePlan(
            f"no accelerator {question.gpu!r} is known; choose from {', '.join(gpu_types())}."
        )
    positive = ("gpus", "sessions", "context", "store_bandwidth", "device_bandwidth", "turn_tokens")
    for name in positive:
        if getattr(question, name) <= 0:
            raise ImpossiblePlan(f"{name} is {getattr(question, name)}; it must be positive.")
    if question.shared_tokens > question.context:
        raise ImpossiblePlan(
            f"{question.shared_tokens} shared tokens do not fit a context of {question.context}."
        )


# ---- on the device ------------------------------------------------------------


def _best_engines(question: Question, model: Model) -> tuple[Engines, DeviceFit]:
    """The division of the GPUs into engines that lets most sessions run."""
    formats = gpu_types()[question.gpu].formats
    if model.precision not in formats:
        raise ImpossiblePlan(
            f"{question.gpu} has no kernels for {model.precision} weights in SGLang; it reads "
            f"{', '.join(formats)}.{_what_fits(question, model)}"
        )
    sizes = [question.tp] if question.tp else _divisors(question.gpus)
    found: list[tuple[Engines, DeviceFit]] = []
    reasons: list[str] = []
    for tp in sizes:
        try:
            found.append(_engines(question, model, tp))
        except ImpossiblePlan as reason:
            reasons.append(str(reason))
    if not found:
        raise ImpossiblePlan(f"{reasons[-1]}{_what_fits(question, model)}")
    return max(found, key=lambda pair: (pair[0].running, pair[0].tp))


def _engines(question: Question, model: Model, tp: int) -> tuple[Engines, DeviceFit]:
    """Raises ImpossiblePlan if engines of `tp` GPUs cannot hold one session."""
    if question.gpus % tp:
        raise ImpossiblePlan(f"{question.gpus} GPUs do not divide into engines of {tp}.")
    layout = _layout(model, tp)
    model = model.divided(question.gpu, layout, mtp=question.mtp)
    mib = gpu_types()[question.gpu].memory_mib
    memory = mib << 20 if mib else psutil.virtual_memory().total
    total, per_gpu = model.weights(layout, mtp=question.mtp)
    rank = rank_size(model.architecture, model.dtypes, layout, mtp=question.mtp)
    usable = int(memory * model.memory_fraction)
    where = f"{tp} x {question.gpu}"
    if per_gpu >= usable:
        raise ImpossiblePlan(
            f"the {model.precision} weights of {model.name} do not fit {where}: "
            f"{per_gpu / _GIB:.1f} GiB per GPU, and {usable / _GIB:.1f} GiB of "
            f"{memory / _GIB:.1f} GiB are for weights and pools."
        )
    drafts = model.draft_tokens if question.mtp else 0
    group = fit(
        usable, per_gpu, rank, context=question.context, page=model.page, draft_tokens=drafts
    )
    if not group.running:
        raise ImpossiblePlan(
            f"one session of {question.context} tokens does not fit {where} beside the weights: it "
            f"takes {group.running_session / _GIB:.1f} GiB per GPU while it runs, and "
            f"{group.for_pools / _GIB:.1f} GiB are left. "
            f"{_longest(group, rank, model, drafts)}"
        )
    count = question.gpus // tp
    return (
        Engines(
            count=count,
            tp=tp,
            memory_per_gpu=memory,
            weights_total=total,
            weights_per_gpu=per_gpu,
            pools_per_gpu=group.for_pools,
            kv_copies=max(1, layout.tp // model.architecture.attention.kv_heads),
            running=group.running * count,
            resident=group.resident * count,
        ),
        group,
    )


def _layout(model: Model, tp: int) -> Layout:
    """Raises ImpossiblePlan if SGLang cannot divide the model over `tp` GPUs."""
    layout = Layout(tp)
    reason = why_not(model.architecture, layout)
    if reason is not None:
        raise ImpossiblePlan(f"{model.name} cannot be divided over {tp} GPUs: {reason}")
    return layout


def _longest(group: DeviceFit, rank: StateSize, model: Model, drafts: int) -> str:
    fixed = (SLOTS + 1 + 2 * drafts) * rank.state + model.page * rank.per_token
    tokens = (group.for_pools - fixed) // rank.per_token // model.page * model.page
    return f"{tokens} tokens would fit." if tokens > 0 else "No session would fit."


def _what_fits(question: Question, model: Model) -> str:
    """The nearest changes with which the plan is possible, as the end of a sentence."""
    tried = [
        *(dataclasses.replace(question, precision=p, tp=None) for p in model.precisions),
        *(dataclasses.replace(question, gpus=n, tp=None) for n in _COUNTS if n > question.gpus),
        *(dataclasses.replace(question, gpu=g, tp=None) for g in gpu_types() if g != "CPU"),
    ]
    fitting = []
    for other in tried:
        if other.gpu == "CPU":
            continue
        try:
            candidate = model_of(other.model, other.precision or model.precision, other.gpu)
            candidate = candidate.with_dtypes(kv=other.kv_dtype, ssm=other.ssm_dtype)
            if candidate.precision not in gpu_types()[other.gpu].formats:
                continue
            for tp in _divisors(other.gpus):
                try:
                    _engines(other, candidate, tp)
                except ImpossiblePlan:
                    continue
                fitting.append(f"{candidate.precision} on {other.gpus}x{other.gpu}")
                break
        except ImpossiblePlan:
            continue
    if not fitting:
        return " Nothing near it would fit."
    return f" It would fit as {', '.join(dict.fromkeys(fitting))}."


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


# ---- in the store -------------------------------------------------------------


def _session(question: Question, size: StateSize, *, ranks: int) -> SessionBytes:
    return SessionBytes(
        ssm=size.ssm * ranks,
        conv=size.conv * ranks,
        kv=size.kv_per_token * question.context * ranks,
        draft_kv=size.draft_kv_per_token * question.context * ranks,
        token_log=question.context * TOKEN_LOG_BYTES,
    )


def _one(question: Question, model: Model, rank: StateSize, layout: Layout) -> Stored:
    """What one session takes that shares nothing."""
    ranks = layout.tp
    return (
        stored.kv(rank, ranks, question.context, model.page)
        + stored.states(rank, ranks, question.states)
        + stored.session_records()
    )


def _turn(question: Question, model: Model, rank: StateSize, layout: Layout) -> Stored:
    ranks = layout.tp
    return stored.kv(rank, ranks, question.turn_tokens, model.page) + stored.states(rank, ranks, 2)


def _redis(question: Question, model: Model, rank: StateSize, layout: Layout) -> Sharing:
    ranks, sessions = layout.tp, question.sessions
    one = _one(question, model, rank, layout)
    shared = question.shared_tokens // model.page * model.page
    own = (
        stored.kv(rank, ranks, question.context - shared, model.page)
        + stored.states(rank, ranks, question.states)
        + stored.session_records()
    )
    turn = _turn(question, model, rank, layout)
    return Sharing(
        nothing=one * sessions,
        prefix=stored.kv(rank, ranks, shared, model.page) + own * sessions,
        forks=one + (turn + stored.session_records()) * sessions,
    )


# ---- times and the command line ----------------------------------------------


def _times(
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


def _launch(
    question: Question, model: Model, engines: Engines, group: DeviceFit
) -> tuple[str, ...]:
    per_engine = group.running
    variant = model.variant(question.gpu, Layout(engines.tp))
    words = ["torpor", "engine", "up", "--profile"]
    nearest = variant or model.nearest(question.gpu)
    words.append(model.profile if nearest is None else nearest.full_name)
    if question.model not in PROFILES:
        words += ["--model", question.model]
    elif PROFILES[question.model].model is None:
        words += ["--model", "DIR"]
    words += ["--context", str(question.context)]
    if not question.mtp:
        words.append("--no-mtp")
    words += ["--", "--max-running-requests", str(per_engine)]
    words += ["--max-mamba-cache-size", str(SLOTS * per_engine)]
    if question.kv_dtype is not None:
        words += ["--kv-cache-dtype", question.kv_dtype]
    if question.ssm_dtype is not None:
        words += ["--mamba-ssm-dtype", question.ssm_dtype]
    if variant is None:
        words += ["--tp-size", str(engines.tp), "--page-size", str(model.page)]
    if nearest is None or nearest.gpu != question.gpu:
        for flag, value in gpu_types()[question.gpu].arguments.items():
            words += [f"--{flag}", str(value)]
    return tuple(words)
