"""Nemotron-H's experts: not gated, squared ReLU, few tokens or many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.patch import Kind, Patch

# Below this many copied weight elements one batched product over gathered expert weights beats a
# loop over experts (a decode step touches a few tokens, and a loop costs ~10 us per operation).
_GATHER_ELEMENTS = 1 << 20


def moe_forward_native(
    original: Callable[..., Tensor],
    layer: torch.nn.Module,
    x: Tensor,
    topk_output: Any,
    moe_runner_config: Any,
) -> Tensor:
    """Upstream's torch path for other activations, ours for relu2.

    Args:
        layer: holds w13_weight [experts, inter, hidden] and w2_weight [experts, hidden, inter].
        x: [tokens, hidden]. topk_output: (weights [tokens, k], ids int[tokens, k], logits); a
            negative id is an unused place.

    Returns:
        [tokens, hidden] in the dtype of `x`, scaled by `routed_scaling_factor` unless top-k has
        done so. Sums over experts are float32.
    """
    if moe_runner_config.activation != "relu2":
        return original(layer, x, topk_output, moe_runner_config)
    if moe_runner_config.apply_router_weight_on_input or moe_runner_config.is_gated:
        raise NotImplementedError("gated relu2 experts, or router weights on the input")
    weights, ids, _ = topk_output
    up: Tensor = layer.w13_weight  # type: ignore[assignment]
    down: Tensor = layer.w2_weight  # type: ignore[assignment]
    out = experts_relu2(x, up, down, weights, ids)
    scale = moe_runner_config.routed_scaling_factor
    if scale is not None and not layer.should_fuse_routed_scaling_factor_in_topk:
        out *= scale
    return out.to(x.dtype)


def experts_relu2(x: Tensor, up: Tensor, down: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
    """sum over k of weights[t, k] * down[e] @ relu(up[e] @ x[t])^2, e = ids[t, k]; float32.

    Args:
        x: [tokens, hidden]. up: [experts, inter, hidden]. down: [experts, hidden, inter].
        weights: float[tokens, k]. ids: int[tokens, k], negative to skip.
    """
    weights = weights.float().masked_fill(ids < 0, 0.0)
    if ids.numel() * up[0].numel() <= _GATHER_ELEMENTS:
        chosen = ids.clamp(min=0).long()
        inner = F.relu((up[chosen] @ x[:, None, :, None]).squeeze(-1)).square()
        y = (down[chosen] @ inner[..., None]).squeeze(-1)
        return (y.float() * weights[..., None]).sum(1)
    out = torch.zeros(len(x), down.shape[1])
    order = ids.flatten().argsort(stable=True)
    counts = torch.bincount(ids.flatten().clamp(min=-1) + 1, minlength=len(up) + 1).tolist()
    start = counts[0]
    for expert, count in enumerate(counts[1:]):
        places = order[start : start + count]
        start += count
        if count:
            tokens = places // ids.shape[1]
            inner = F.relu(F.linear(x[tokens], up[expert])).square()
            y = F.linear(inner, down[expert]).float() * weights.flatten()[places][:, None]
            out.index_add_(0, tokens, y)
    return out


PATCHES = (
    Patch(
        "sglang.srt.layers.moe.fused_moe_native.moe_forward_native",
        Kind.AROUND,
        moe_forward_native,
        "knows gated silu, gelu and situ only, and leaves routed_scaling_factor out",
    ),
)
