"""The machine that a replay runs on: what `torpor plan` says of a model on some GPUs."""

from __future__ import annotations

from agent_runtime.errors import SetupError
from agent_runtime.scheduling.simulate import Machine
from agent_runtime.scheduling.sizes import Capacity, Sizes
from engine.plan import Question, plan
from engine.plan.compute import prefill_flops
from engine.plan.device import SLOTS
from engine.plan.models import model_of


def planned(
    question: Question, *, slots: int | None, decode_rate: float, staging_bytes: int, store: bool
) -> Machine:
    """One engine of the plan, with the pools that the plan starts it with.

    slots: turns that run at once; None for as many of the question's context as fit
    Raises ImpossiblePlan; SetupError for more slots than there are.
    """
    made = plan(question)
    fitting = max(1, made.engines.running // made.engines.count)
    if slots is not None and slots > fitting:
        raise SetupError(
            f"{slots} turns of {question.context} tokens do not fit at once; {fitting} do."
        )
    assert question.prefill_rate is not None, "a replay needs the rate"
    stored = made.stored_bytes
    flops = prefill_flops(model_of(question.model, question.precision, question.gpu))
    return Machine(
        capacity=Capacity(
            running=slots or fitting,
            states=SLOTS * fitting,
            tokens=fitting * question.context,
            running_states=SLOTS,
            idle_states=question.states,
            staging_bytes=staging_bytes,
        ),
        sizes=Sizes(
            state=stored.ssm + stored.conv,
            kv_per_token=(stored.kv + stored.draft_kv) // question.context,
            linear=flops.linear,
            quadratic=flops.quadratic,
            load_bandwidth=question.store_bandwidth,
        ),
        prefill_rate=question.prefill_rate,
        decode_rate=decode_rate,
        staged_bandwidth=question.device_bandwidth * made.engines.tp,
        store=store,
    )
