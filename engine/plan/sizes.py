"""How many bytes a session's state takes, on one rank and in all.

    SSM state      = recurrent layers x heads x head_dim x state_size x bytes(ssm dtype)
    conv window    = recurrent layers x (inner + 2 x groups x state_size) x (kernel - 1)
                     x bytes(conv dtype), where inner = heads x head_dim
    KV per token   = attention layers x 2 x kv_heads x head_dim x bytes(kv dtype)
    draft KV       = the same for the MTP head's attention layers
    token log      = 4 bytes per token

With tensor parallelism over T ranks the recurrent parts divide by T; KV heads divide too, until
each rank is down to one: beyond `kv_heads` ranks, ranks hold the same head (SGLang 0.5.23,
`ModelConfig.get_num_kv_heads`, `Mamba2StateShape.create`).
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ImpossiblePlan
from engine.plan.architecture import Architecture

TOKEN_LOG_BYTES = 4
"""Per token: ids are stored as uint32."""

_BYTES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
}


@dataclass(frozen=True)
class Layout:
    """tp: GPUs of one engine, over which attention and Mamba heads and experts are divided. SGLang
    can also run attention in data-parallel groups; sessions cannot be stored then (see
    `engine/linker/layouts.py`)."""

    tp: int = 1


@dataclass(frozen=True)
class Dtypes:
    """Of the device pools, in SGLang's names."""

    kv: str
    conv: str
    ssm: str


@dataclass(frozen=True)
class StateSize:
    """Bytes that one rank holds of one session."""

    ssm: int
    conv: int
    kv_per_token: int
    draft_kv_per_token: int

    @property
    def state(self) -> int:
        return self.ssm + self.conv

    @property
    def per_token(self) -> int:
        return self.kv_per_token + self.draft_kv_per_token


def itemsize(dtype: str) -> int:
    """Raises ImpossiblePlan for a dtype that is not known."""
    if dtype not in _BYTES:
        raise ImpossiblePlan(f"the dtype {dtype!r} is not known; choose from {', '.join(_BYTES)}.")
    return _BYTES[dtype]


def rank_size(
    architecture: Architecture, dtypes: Dtypes, layout: Layout, *, mtp: bool
) -> StateSize:
    """What one rank of `layout` holds. Raises ImpossiblePlan where `why_not` gives a reason."""
    reason = why_not(architecture, layout)
    if reason is not None:
        raise ImpossiblePlan(reason)
    ranks = layout.tp
    recurrence, attention = architecture.recurrence, architecture.attention
    groups = recurrence.groups if recurrence.groups % ranks == 0 else ranks
    columns = recurrence.inner + 2 * groups * recurrence.state_size
    kv_layer = (
        2 * max(1, attention.kv_heads // ranks) * attention.head_dim * itemsize(dtypes.kv)
    )  # fmt: skip
    return StateSize(
        ssm=recurrence.layers
        * (recurrence.inner // ranks)
        * recurrence.state_size
        * itemsize(dtypes.ssm),
        conv=recurrence.layers
        * (columns // ranks)
        * (recurrence.conv_kernel - 1)
        * itemsize(dtypes.conv),
        kv_per_token=attention.layers * kv_layer,
        draft_kv_per_token=architecture.draft_layers * kv_layer if mtp else 0,
    )


def why_not(architecture: Architecture, layout: Layout) -> str | None:
    """Why SGLang cannot divide the model like this, or None if it can."""
    ranks = layout.tp
    recurrence, attention = architecture.recurrence, architecture.attention
    if recurrence.heads % ranks:
        return f"{recurrence.heads} recurrent heads do not divide by {ranks}."
    if recurrence.groups % ranks and recurrence.groups != 1:
        # `layers/attention/mamba/mamba.py`, MambaMixer2
        return f"{recurrence.groups} recurrent groups do not divide by {ranks}."
    if attention.query_heads % ranks:
        return f"{attention.query_heads} attention heads do not divide by {ranks}."
    if attention.kv_heads % ranks and ranks % attention.kv_heads:
        return f"{attention.kv_heads} KV heads and {ranks} ranks do not divide each other."
    blocks = architecture.blocks
    for inner in (blocks.experts.inner, blocks.experts.shared_inner) if blocks else ():
        if inner % layout.tp:
            return f"experts of width {inner} do not divide by {layout.tp}."
    return None
