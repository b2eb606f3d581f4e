"""Dividing GPUs into engines."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import psutil

from engine.errors import ImpossiblePlan
from engine.plan.device import SLOTS, WAITING, DeviceFit, fit
from engine.plan.models import Model, model_of
from engine.plan.question import Question
from engine.plan.sizes import Layout, StateSize, rank_size, why_not
from engine.profiles import gpu_types

_GIB = 1 << 30
_COUNTS = (1, 2, 4, 8, 16)  # of GPUs, to suggest


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


def best_engines(question: Question, model: Model) -> tuple[Engines, DeviceFit]:
    """The division of the GPUs into engines that lets most sessions run, and what fits one of them.

    Raises ImpossiblePlan, with the reason and what would fit.
    """
    formats = gpu_types()[question.gpu].formats
    if model.precision not in formats:
        raise ImpossiblePlan(
            f"{question.gpu} has no kernels for {model.precision} weights in SGLang; it reads "
            f"{', '.join(formats)}.{_what_fits(question, model)}"
        )
    sizes = _divisors(question.gpus) if question.tp is None else [question.tp]
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
    fixed = (SLOTS + 1 + WAITING + 2 * drafts) * rank.state + model.page * rank.per_token
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
    """In ascending order."""
    low = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return sorted({*low, *(number // one for one in low)})
