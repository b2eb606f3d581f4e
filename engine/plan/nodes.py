"""What resuming, suspending and keeping sessions takes on real nodes: formulas over constants.

One engine has all GPUs of the node, and a rank on each.

    E        = min(network, shards x shard bandwidth, ranks x client, ranks x device)
    resume   = fixed + read bytes / E + tail / prefill rate
               read bytes: KV and draft KV of all pages and one recurrent state, of all ranks
               tail: tokens past the last state, at most one track interval
    suspend  = fixed + turn bytes / E, with what a shard takes instead of what it gives
    archived = resume + read bytes / archive bandwidth
    prefill  = (linear x n / peak of the weights' format + quadratic x n^2 / peak of bf16)
               / (GPUs x efficiency)
    break-even = the n where fixed + (state + n x KV) / E equals the prefill of n tokens
    RAM day  = memory as Redis counts it x (1 + replicas) x price of a byte and day
    archive day = bytes x price of a byte and day; moving there once: objects x price of a PUT
    days     = what the prefill costs in GPU time / RAM day: for so long it pays to keep a session

The constants, each with its source, are in `nodes.toml`; bytes come from `sizes.py` and
`stored.py`, FLOPs from `compute.py`, and what fits from `plan`.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import ImpossiblePlan
from engine.plan import Question, plan, stored
from engine.plan.compute import prefill_flops
from engine.plan.models import Model, model_of
from engine.plan.sizes import Layout, StateSize, rank_size
from state_store.layout import parts_of

_GB = 10**9
_GIB = 1 << 30
_FILE = Path(__file__).with_name("nodes.toml")


@dataclass(frozen=True)
class Constants:
    """Bandwidths in GB/s, prices in dollars; see `nodes.toml` for each."""

    shard_read: float
    shard_write: float
    client: float
    device: float
    archive: float
    fixed: float
    efficiency: float
    replicas: float
    ram_gib_hour: float
    archive_gb_month: float
    archive_put: float

    def changed(self, values: Mapping[str, float]) -> Constants:
        """Raises ImpossiblePlan for a constant that there is none of, or that is not positive
        and finite, and for an efficiency above the whole of a GPU."""
        known = {field.name for field in dataclasses.fields(self)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ImpossiblePlan(f"no constant {', '.join(unknown)}; there are {sorted(known)}.")
        for name, value in values.items():
            is_zero = value == 0 and name not in ("replicas", "fixed")
            if not math.isfinite(value) or value < 0 or is_zero:
                raise ImpossiblePlan(f"{name} is {value:g}; it must be positive and finite.")
        if values.get("efficiency", 0.0) > 1:
            raise ImpossiblePlan(
                f"efficiency is {values['efficiency']:g}; it is a part of a GPU's peak, 1 at most."
            )
        return dataclasses.replace(self, **values)


@dataclass(frozen=True)
class Node:
    """One machine. network: GB/s between it and the store; shards: Redis masters"""

    model: str
    precision: str
    gpu: str
    gpus: int
    network: float
    shards: int


@dataclass(frozen=True)
class PrefillCost:
    """linear: seconds per token; quadratic: per token squared"""

    linear: float
    quadratic: float

    def seconds(self, tokens: int) -> float:
        return self.linear * tokens + self.quadratic * tokens**2


@dataclass(frozen=True)
class Outcome:
    """Of one session of `context` tokens on the node, nothing else under way. Times in seconds,
    prices in dollars.

    limit:      what E is: network, shards, clients or device
    read_bytes: that a resume reads
    ram_days:   see `days` in the module
    """

    node: Node
    context: int
    limit: str
    read_bytes: int
    memory_bytes: int
    resume: float
    resume_archived: float
    suspend: float
    prefill: float
    ratio: float
    break_even: int | None
    ram_day: float
    archive_day: float
    archive_move: float
    prefill_cost: float
    ram_days: float


@cache
def constants() -> Constants:
    """The defaults."""
    return Constants(**{name: entry["value"] for name, entry in table()["constants"].items()})


@cache
def table() -> dict[str, Any]:
    """What `nodes.toml` says: constants with their units and sources, GPUs, and nodes."""
    return tomllib.loads(_FILE.read_text("utf-8"))


def nodes() -> list[Node]:
    """Those of the data file."""
    return [Node(**entry) for entry in table()["node"]]


def outcome(node: Node, context: int, known: Constants, *, turn_tokens: int = 1000) -> Outcome:
    """Raises ImpossiblePlan where a session of so many tokens does not fit the node."""
    made = plan(
        Question(
            model=node.model,
            precision=node.precision,
            gpu=node.gpu,
            gpus=node.gpus,
            sessions=1,
            context=context,
            turn_tokens=turn_tokens,
            tp=node.gpus,
        )
    )
    tp = node.gpus
    model, size = _model(node.model, node.precision, node.gpu, tp)
    read = read_bytes(size, tp, context, model.page)
    bandwidths = {
        "network": node.network * _GB,
        "shards": node.shards * known.shard_read * _GB,
        "clients": tp * known.client * _GB,
        "device": tp * known.device * _GB,
    }
    limit = min(bandwidths, key=lambda name: bandwidths[name])
    bandwidth = bandwidths[limit]
    writing = min({**bandwidths, "shards": node.shards * known.shard_write * _GB}.values())
    cost = prefill_cost(model, node.gpu, tp, known)
    prefill, tail = cost.seconds(context), cost.seconds(model.track_interval)
    resume = known.fixed + read / bandwidth + tail
    memory = made.redis.nothing.memory
    ram_day = memory / _GIB * (1 + known.replicas) * known.ram_gib_hour * 24
    gpu_time = prefill / 3600 * tp * table()["gpu"][node.gpu]["hour"]
    return Outcome(
        node=node,
        context=context,
        limit=limit,
        read_bytes=read,
        memory_bytes=memory,
        resume=resume,
        resume_archived=resume + read / (known.archive * _GB),
        suspend=known.fixed + made.turn_bytes / writing,
        prefill=prefill,
        ratio=prefill / resume,
        break_even=break_even(
            cost,
            fixed=known.fixed + size.state * tp / bandwidth,
            per_token=size.per_token * tp / bandwidth,
        ),
        ram_day=ram_day,
        archive_day=made.archive_bytes / _GB * known.archive_gb_month * 12 / 365,
        archive_move=objects(size, tp, context, model.page) * known.archive_put,
        prefill_cost=gpu_time,
        ram_days=gpu_time / ram_day,
    )


def session_bytes(name: str, gpu: str, tokens: int) -> int:
    """That a resume of a profile's model on one rank reads."""
    model, size = _model(name, None, gpu, 1)
    return read_bytes(size, 1, tokens, model.page)


def read_bytes(size: StateSize, ranks: int, tokens: int, page: int) -> int:
    """Of all pages and one state, with their headers and the token log."""
    return (stored.kv(size, ranks, tokens, page) + stored.states(size, ranks, 1)).payload


def objects(size: StateSize, ranks: int, tokens: int, page: int) -> int:
    """In which an archive has a session with one state."""
    pages = -(-tokens // page)
    return ranks * (pages * parts_of(size.per_token * page) + parts_of(size.state))


def load_seconds(size: int, gb_s: float, fixed: float = 0.0) -> float:
    """Seconds until so many bytes are read."""
    return fixed + size / (gb_s * _GB)


def prefill_cost(model: Model, gpu: str, gpus: int, known: Constants) -> PrefillCost:
    """Experts, most of the work, are computed in their weights' format, attention in bf16."""
    peaks = table()["gpu"].get(gpu, {})
    name = model.formats.routed or model.formats.default
    if name not in peaks:
        raise ImpossiblePlan(f"the peak of {gpu} with {name} weights is not known.")
    flops, reached = prefill_flops(model), 1e12 * gpus * known.efficiency
    return PrefillCost(
        linear=flops.linear / (peaks[name] * reached),
        quadratic=flops.quadratic / (peaks["bf16"] * reached),
    )


def break_even(cost: PrefillCost, *, fixed: float, per_token: float) -> int | None:
    """Tokens from which on a resume is sooner than the prefill, the tail left out; None if never.

    fixed, per_token: seconds of the resume
    """
    a, b = cost.quadratic, cost.linear - per_token
    if a == 0:
        return math.ceil(fixed / b) if b > 0 else None
    return math.ceil((-b + math.sqrt(b * b + 4 * a * fixed)) / (2 * a))


def _model(name: str, precision: str | None, gpu: str, tp: int) -> tuple[Model, StateSize]:
    """With the page of its layout, and what one rank holds."""
    layout = Layout(tp)
    model = model_of(name, precision, gpu).divided(gpu, layout, mtp=True)
    return model, rank_size(model.architecture, model.dtypes, layout, mtp=True)
