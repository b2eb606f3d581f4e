"""How many bytes of weights there are, and how many one GPU holds.

Counted from the dimensions, part by part, as SGLang's NemotronH layers divide them
(`sglang/srt/models/nemotron_h.py`): router, latent projections and norms are whole on every rank,
the rest is divided. For other families only the checkpoint's size is known, and an even division
is assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.plan.architecture import Architecture, Blocks
from engine.plan.sizes import Layout
from engine.profiles.files import Format, Weights

# NVFP4: half a byte, and one byte of scale for each block of 16.
_BYTES: dict[Format, float] = {"fp32": 4, "bf16": 2, "fp8": 1, "nvfp4": 0.5 + 1 / 16}


@dataclass(frozen=True)
class _Part:
    """parameters: in all; over: how many ranks divide them; format: of each."""

    parameters: int
    over: int
    format: Format


def counted(
    architecture: Architecture, blocks: Blocks, weights: Weights, layout: Layout, *, mtp: bool
) -> tuple[int, int]:
    """Bytes of all weights, and bytes that one GPU holds."""
    parts = list(_parts(architecture, blocks, weights, layout, mtp=mtp))
    total = sum(part.parameters * _BYTES[part.format] for part in parts)
    per_gpu = sum(part.parameters / part.over * _BYTES[part.format] for part in parts)
    return round(total), round(per_gpu)


def weight_files(folder: Path) -> int:
    """Bytes of a checkpoint's weight files; 0 if there are none."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _parts(
    architecture: Architecture, blocks: Blocks, weights: Weights, layout: Layout, *, mtp: bool
) -> Iterator[_Part]:
    everywhere, tp = 1, layout.tp
    default = weights.default
    hidden, experts = blocks.hidden, blocks.experts

    yield _Part(blocks.vocabulary * hidden, tp, default)  # embedding
    if not blocks.tied:
        yield _Part(blocks.vocabulary * hidden, tp, default)

    recurrence = architecture.recurrence
    columns = recurrence.inner + 2 * recurrence.groups * recurrence.state_size
    mamba = hidden * (2 * recurrence.inner + columns - recurrence.inner + recurrence.heads)
    mamba += recurrence.inner * hidden
    before = blocks.mamba_before_attention
    usual = weights.mamba or default
    yield _Part((recurrence.layers - before) * mamba, tp, usual)
    yield _Part(before * mamba, tp, weights.mamba_before_attention or usual)
    small = columns * (recurrence.conv_kernel + 1) + 3 * recurrence.heads + recurrence.inner
    yield _Part(recurrence.layers * small, tp, default)

    yield from _attention(architecture, architecture.attention.layers, hidden, layout, default)
    yield from _moe(blocks, experts.layers, tp, weights)
    yield _Part(blocks.mlp_layers * 2 * hidden * blocks.mlp_inner, tp, default)
    layers = recurrence.layers + architecture.attention.layers + experts.layers + blocks.mlp_layers
    yield _Part((layers + 1) * hidden, everywhere, default)  # norms

    if mtp and architecture.draft_layers:
        draft = architecture.draft_layers
        plain = Weights(default=default)
        yield from _attention(architecture, draft, hidden, layout, default)
        yield from _moe(blocks, draft, tp, plain)
        yield _Part(draft * 2 * hidden * hidden, tp, default)  # eh_proj
        yield _Part(draft * 5 * hidden, everywhere, default)  # norms


def _attention(
    architecture: Architecture, layers: int, hidden: int, layout: Layout, default: Format
) -> Iterator[_Part]:
    attention = architecture.attention
    yield _Part(
        layers * 2 * hidden * attention.query_heads * attention.head_dim, layout.tp, default
    )
    kv = layers * 2 * hidden * attention.kv_heads * attention.head_dim
    yield _Part(kv, min(layout.tp, attention.kv_heads), default)


def _moe(blocks: Blocks, layers: int, tp: int, weights: Weights) -> Iterator[_Part]:
    experts, hidden, default = blocks.experts, blocks.hidden, weights.default
    width = experts.latent or hidden
    yield _Part(
        layers * experts.count * 2 * width * experts.inner, tp, weights.routed or default
    )  # fmt: skip
    yield _Part(layers * 2 * hidden * experts.shared_inner, tp, weights.shared or default)
    yield _Part(layers * hidden * experts.count, 1, default)  # router
    if experts.latent is not None:
        yield _Part(layers * 2 * hidden * experts.latent, 1, default)
