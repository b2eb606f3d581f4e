"""Causal depthwise conv1d over a batch of sequences, with its sliding state (Mamba's short conv).

Both functions keep upstream's calling convention, so that its mixer calls them unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.patch import Kind, Patch

PAD = -1


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv_states: Tensor,
    query_start_loc: Tensor,
    seq_lens_cpu: list[int],
    cache_indices: Tensor,
    has_initial_state: Tensor | None = None,
    activation: str | bool | None = "silu",
    pad_slot_id: int = PAD,
    **_: Any,
) -> Tensor:
    """Prefill: convolve sequences laid end to end, starting from and leaving their state.

    Args:
        x: [dim, tokens], usually a transposed view of token-major memory.
        weight: [dim, width]. bias: [dim].
        conv_states: [slots, dim, width - 1], any float dtype; rows in `cache_indices` are updated.
        query_start_loc: int[sequences + 1]; unused, `seq_lens_cpu` says the same without a sync.
        cache_indices: int[sequences]; sequences at `pad_slot_id` are skipped (their output is 0).
        has_initial_state: bool[sequences]; without it every sequence starts from zeros.

    Returns:
        [dim, tokens] in the dtype of `x`, token-major in memory. Sums are float32.
    """
    dim, width = weight.shape
    history = width - 1
    slots = cache_indices.tolist()
    resumed = [False] * len(slots) if has_initial_state is None else has_initial_state.tolist()
    taps = weight.float().t().contiguous()  # [width, dim]
    out = torch.zeros(x.shape[1], dim, dtype=x.dtype)
    start = 0
    for slot, resume, length in zip(slots, resumed, seq_lens_cpu, strict=True):
        if slot != pad_slot_id and length > 0:
            window = torch.empty(history + length, dim)
            if resume:
                window[:history] = conv_states[slot, :, :history].t()
            else:
                window[:history] = 0
            window[history:] = x[:, start : start + length].t()
            # A depthwise conv as `width` shifted multiply-adds: on this layout faster than
            # F.conv1d with groups, which wants channels first.
            y = window[:length] * taps[0]
            for k in range(1, width):
                y.addcmul_(window[k : k + length], taps[k])
            if bias is not None:
                y += bias.float()
            out[start : start + length] = _activate(y, activation)
            conv_states[slot, :, :history] = window[length:].t().to(conv_states.dtype)
        start += length
    return out.t()


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | bool | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    num_accept_tokens: Tensor | None = None,
    intermediate_conv_window: Tensor | None = None,
    intermediate_state_indices: Tensor | None = None,
    retrieve_next_token: Tensor | None = None,
    retrieve_next_sibling: Tensor | None = None,
    retrieve_parent_token: Tensor | None = None,
    pad_slot_id: int = PAD,
    metadata: Any = None,
    validate_data: bool = False,
) -> Tensor:
    """Decode or verify: `steps` new tokens per request, as a chain or as a draft tree.

    Args:
        x: [batch, dim] or [batch, dim, steps].
        conv_state: [slots, dim, width - 1], updated as if every token of `x` were a chain; after a
            verify SGLang overwrites it from `intermediate_conv_window`.
        conv_state_indices: int[batch]; requests at `pad_slot_id` leave no trace in any state.
        intermediate_conv_window: [rows, steps, dim, width - 1]; if given, receives at row
            `intermediate_state_indices[b]` the state after each token of request b.
        retrieve_next_token, retrieve_next_sibling: int[batch, steps], a draft tree as first-child
            and next-sibling links; then each token sees its ancestors, and the parents are written
            to `retrieve_parent_token`: int[batch, steps].

    Returns:
        Same shape as `x`. Sums are float32.
    """
    if cache_seqlens is not None or num_accept_tokens is not None:
        raise NotImplementedError("circular conv state: SGLang's Nemotron-H path never asks for it")
    single = x.dim() == 2
    if single:
        x = x.unsqueeze(-1)
    batch, dim, steps = x.shape
    width = weight.shape[1]
    history = width - 1
    slots = torch.arange(batch) if conv_state_indices is None else conv_state_indices.long()
    live = slots != pad_slot_id
    prior = conv_state[slots.clamp(min=0)][:, :, :history]
    full = torch.cat([prior.float(), x.float()], dim=2)  # [batch, dim, history + steps]
    if retrieve_next_token is None:
        windows = full.unfold(2, width, 1)  # [batch, dim, steps, width]
    else:
        assert retrieve_next_sibling is not None
        assert retrieve_parent_token is not None
        parents = tree_parents(retrieve_next_token, retrieve_next_sibling)
        retrieve_parent_token.copy_(parents)
        picked = _ancestors(parents, width).view(batch, 1, steps * width)
        windows = full.gather(2, picked.expand(-1, dim, -1)).view(batch, dim, steps, width)
    y = (windows * weight.float()[:, None, :]).sum(-1)
    if bias is not None:
        y += bias.float()[:, None]
    # The mixer views the result token-major, which a contiguous copy would not allow.
    out = torch.empty_like(x)
    out.copy_(_activate(y, activation))
    conv_state[slots[live], :, :history] = full[live][:, :, steps:].to(conv_state.dtype)
    if intermediate_conv_window is not None:
        rows = slots if intermediate_state_indices is None else intermediate_state_indices.long()
        after = windows[..., 1:].permute(0, 2, 1, 3)  # [batch, steps, dim, width - 1]
        intermediate_conv_window[rows[live], :steps] = after[live].to(
            intermediate_conv_window.dtype
        )
    return out.squeeze(-1) if single else out


def tree_parents(first_child: Tensor, next_sibling: Tensor) -> Tensor:
    """Parent of each node of a draft tree, int[batch, steps]; 0 for the root and for padding.

    A parent always precedes its children, and a node its next sibling.
    """
    parents = [[0] * first_child.shape[1] for _ in range(first_child.shape[0])]
    links = zip(parents, first_child.tolist(), next_sibling.tolist(), strict=True)
    for parent, children, siblings in links:
        for node, (child, sibling) in enumerate(zip(children, siblings, strict=True)):
            if child != -1:
                parent[child] = node
            if sibling != -1:
                parent[sibling] = parent[node]
    return torch.tensor(parents, dtype=first_child.dtype)


def _ancestors(parents: Tensor, width: int) -> Tensor:
    """For each token the columns of [history | tokens] its window covers, int64[batch, steps,
    width], oldest first: itself, its parent, ..., then on into the history."""
    history = width - 1
    node = torch.arange(parents.shape[1]).expand(parents.shape)
    columns = []
    for _ in range(width):
        columns.append(node + history)
        node = torch.where(node > 0, parents.long().gather(1, node.clamp(min=0)), node - 1)
    return torch.stack(columns[::-1], dim=-1)


def _activate(y: Tensor, activation: str | bool | None) -> Tensor:
    return F.silu(y) if activation in (True, "silu", "swish") else y


_MIXER = "sglang.srt.layers.attention.mamba.mamba."
_UNBOUND = "imported under `if is_cuda() / is_npu() / is_xpu()` only: a NameError on CPU"
PATCHES = (
    Patch(_MIXER + "causal_conv1d_fn", Kind.BIND, causal_conv1d_fn, _UNBOUND),
    Patch(_MIXER + "causal_conv1d_update", Kind.BIND, causal_conv1d_update, _UNBOUND),
    Patch(_MIXER + "causal_conv1d_fn_triton", Kind.BIND, causal_conv1d_fn, _UNBOUND),
    Patch(_MIXER + "causal_conv1d_update_triton", Kind.BIND, causal_conv1d_update, _UNBOUND),
)
