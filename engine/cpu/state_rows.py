"""Copies of conv and SSM state rows between the slots of SGLang's Mamba pool.

Two moments need them: a position on the track interval is reached (the live state is copied to
the slot the prefix cache keeps), and a verify has accepted some draft tokens (the state after the
last accepted one becomes the live state).
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.patch import Kind, Patch


def track_mamba_states_if_needed(
    conv_states: Tensor,
    ssm_states: Tensor,
    cache_indices: Tensor,
    mamba_track_mask: Tensor,
    mamba_track_indices: Tensor,
    batch_size: int,
    check_freed_slots: bool = False,
) -> None:
    """One layer: copy row `cache_indices[i]` to row `mamba_track_indices[i]` where the mask is set.

    Args:
        conv_states: [slots, dim, width - 1]. ssm_states: [slots, heads, head_dim, d_state].
        cache_indices, mamba_track_indices: int[>= batch_size]. mamba_track_mask: bool likewise.
        check_freed_slots: skip pairs with a negative slot.
    """
    tracked = mamba_track_mask[:batch_size].bool()
    if not tracked.any():
        return
    source = cache_indices[:batch_size][tracked].long()
    target = mamba_track_indices[:batch_size][tracked].long()
    if check_freed_slots:
        kept = (source >= 0) & (target >= 0)
        source, target = source[kept], target[kept]
    for states in (conv_states, ssm_states):
        states[target] = states[source]


def scatter_with_mask(
    dst: Tensor,
    src: Tensor,
    dst_indices_raw: Tensor,
    step_indices_raw: Tensor,
    src_indices_raw: Tensor | None = None,
) -> None:
    """All layers: ``dst[:, dst_indices[i]] = src[:, i, steps[i]]`` for each request i.

    Args:
        dst: [layers, slots, ...]. src: [layers, rows, steps, ...].
        dst_indices_raw, step_indices_raw: int[requests]; a request whose step or slot is out of
            range (step -1: nothing to keep) is skipped.
        src_indices_raw: int[requests], rows of `src`; request i's row is i without it.
    """
    steps = step_indices_raw.long()
    slots = dst_indices_raw.long()
    rows = torch.arange(len(steps)) if src_indices_raw is None else src_indices_raw.long()
    valid = (steps >= 0) & (steps < src.shape[2]) & (slots >= 0) & (slots < dst.shape[1])
    valid &= (rows >= 0) & (rows < src.shape[1])
    dst[:, slots[valid]] = src[:, rows[valid], steps[valid]].to(dst.dtype)


def fused_conv_window_scatter_multi(
    pairs: list[tuple[Tensor, Tensor]],
    dst_indices_raw: Tensor,
    step_indices_raw: Tensor,
    dst_indices2_raw: Tensor | None = None,
    step_indices2_raw: Tensor | None = None,
) -> None:
    """`scatter_with_mask` for each (dst, src) pair, for one or two sets of indices."""
    for dst, src in pairs:
        scatter_with_mask(dst, src, dst_indices_raw, step_indices_raw)
        if dst_indices2_raw is not None:
            assert step_indices2_raw is not None
            scatter_with_mask(dst, src, dst_indices2_raw, step_indices2_raw)


_BACKEND = "sglang.srt.layers.attention.hybrid_linear_attn_backend."
_SCATTER = "sglang.kernels.ops.mamba.mamba_state_scatter_triton."
_TRITON = "a Triton kernel"
PATCHES = (
    Patch(
        _BACKEND + "track_mamba_states_if_needed",
        Kind.REPLACE,
        track_mamba_states_if_needed,
        _TRITON,
    ),
    Patch(
        _SCATTER + "fused_mamba_state_scatter_with_mask",
        Kind.REPLACE,
        scatter_with_mask,
        "a Triton kernel that refuses CPU tensors",
    ),
    Patch(
        _SCATTER + "fused_conv_window_scatter_with_mask",
        Kind.REPLACE,
        scatter_with_mask,
        "a Triton kernel that refuses CPU tensors",
    ),
    Patch(
        _SCATTER + "fused_conv_window_scatter_multi",
        Kind.REPLACE,
        fused_conv_window_scatter_multi,
        _TRITON,
    ),
)
