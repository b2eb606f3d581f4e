"""The command line that starts an engine of a plan."""

from __future__ import annotations

from engine.plan.device import SLOTS, WAITING, DeviceFit
from engine.plan.engines import Engines
from engine.plan.models import Model
from engine.plan.question import Question
from engine.plan.sizes import Layout
from engine.profiles import PROFILES, gpu_types


def launch_of(
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
    words += ["--max-mamba-cache-size", str(SLOTS * per_engine + WAITING)]
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
