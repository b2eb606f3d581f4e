"""How many floating-point operations the prefill of a session takes.

    FLOPs of n tokens = linear x n + quadratic x n^2
    linear            = 2 x parameters that a token goes through
    quadratic         = 2 x attention layers x query heads x head_dim  (scores and values, causal)

The recurrence itself is linear in n and small beside the projections around it; it is left out, as
is the draft model.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ImpossiblePlan
from engine.plan.architecture import Architecture, Blocks
from engine.plan.models import Model
from engine.plan.sizes import itemsize


@dataclass(frozen=True)
class Flops:
    """See the module."""

    linear: float
    quadratic: float


def prefill_flops(model: Model) -> Flops:
    """Raises ImpossiblePlan where neither dimensions nor weight files tell the parameters."""
    attention = model.architecture.attention
    return Flops(
        linear=2.0 * _active(model),
        quadratic=2.0 * attention.layers * attention.query_heads * attention.head_dim,
    )


def _active(model: Model) -> int:
    """Parameters per token. Of families whose blocks are not counted, all there are."""
    if model.architecture.blocks is not None:
        return active_parameters(model.architecture, model.architecture.blocks)
    if not model.file_bytes:
        raise ImpossiblePlan(f"the weights of {model.name} are not known, so its FLOPs are not.")
    return model.file_bytes // itemsize(model.architecture.dtype)


def active_parameters(architecture: Architecture, blocks: Blocks) -> int:
    """Parameters that each token goes through; embeddings are looked up, not multiplied."""
    hidden, experts, attention = blocks.hidden, blocks.experts, architecture.attention
    recurrence = architecture.recurrence
    mixer = hidden * (
        3 * recurrence.inner
        + 2 * recurrence.groups * recurrence.state_size
        + recurrence.heads
    )  # fmt: skip
    heads = 2 * (attention.query_heads + attention.kv_heads) * attention.head_dim * hidden
    width = experts.latent or hidden
    moe = 2 * (experts.active * width * experts.inner + hidden * experts.shared_inner)
    moe += hidden * experts.count + (0 if experts.latent is None else 2 * hidden * experts.latent)
    return (
        recurrence.layers * mixer
        + attention.layers * heads
        + experts.layers * moe
        + blocks.mlp_layers * 2 * hidden * blocks.mlp_inner
        + hidden * blocks.vocabulary
    )
