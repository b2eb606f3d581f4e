"""Attention over SGLang's paged KV cache: prefill, decode, and verify of draft trees.

Upstream's `intel_amx` backend drives every mode, speculation included, through two operators of
its CPU wheel. We run that backend on the torch versions of them below (installed by
engine/cpu/sgl_kernel), under the name `torch_native`, whose own class knows no speculation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engine.patch import Kind, Patch


def decode_attention_cpu(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k_scale: float,
    v_scale: float,
    out: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    loc: Tensor,
    attn_logits: Tensor,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    scale: float,
    logit_cap: float,
    is_cross_attn: bool,
    sliding_window: int,
    encoder_lens: Tensor | None,
    sinks: Tensor | None,
) -> None:
    """One query per request over its cached tokens, after storing `key` and `value` at `loc`.

    Args:
        q, out: [batch, heads, head_dim]. k_cache, v_cache: [slots, kv_heads, head_dim].
        key, value: [batch, ...] of kv_heads * head_dim elements, or None if already stored.
        loc: int[batch], slots of `key`.
        req_to_token: int[requests, positions], the slot of each position.
        req_pool_indices: int[batch], rows of it. seq_lens: int[batch], including this token.
        attn_logits: upstream's scratch space; unused.
    """
    _refuse(logit_cap, is_cross_attn, sliding_window, sinks, k_scale, v_scale)
    if key is not None and value is not None:
        k_cache[loc] = key.view(-1, *k_cache.shape[1:]).to(k_cache.dtype)
        v_cache[loc] = value.view(-1, *v_cache.shape[1:]).to(v_cache.dtype)
    for i, (row, length) in enumerate(
        zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)
    ):
        k, v = _cached(k_cache, v_cache, req_to_token[row, :length], q.dtype)
        out[i] = _attend(q[i : i + 1], k, v, scale)[0]


def extend_attention_cpu(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    out: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k_scale: float,
    v_scale: float,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    extend_seq_lens: Tensor,
    extend_start_loc: Tensor,
    max_extend_len: int,
    scale: float,
    logit_cap: float,
    is_cross_attn: bool,
    sliding_window: int,
    encoder_lens: Tensor | None,
    sinks: Tensor | None,
    tree_mask: Tensor | None,
    is_causal: bool,
) -> None:
    """The last `extend_seq_lens[i]` tokens of each request over all its tokens, all cached already.

    Args:
        q, out: [tokens, heads, head_dim], requests laid end to end at `extend_start_loc`.
        seq_lens: int[batch], cached tokens including the new ones.
        tree_mask: bool, an [n, n] matrix per request of n new tokens, end to end: which new token
            sees which. The tokens before are seen by all. Causal if None.
        k, v, max_extend_len: the new keys and values once more; unused.
    """
    _refuse(logit_cap, is_cross_attn, sliding_window, sinks, k_scale, v_scale)
    if not is_causal:
        raise NotImplementedError("attention that is not causal")
    offset = 0
    requests = zip(
        req_pool_indices.tolist(),
        seq_lens.tolist(),
        extend_seq_lens.tolist(),
        extend_start_loc.tolist(),
        strict=True,
    )
    for row, length, new, start in requests:
        if new == 0:
            continue
        keys, values = _cached(k_cache, v_cache, req_to_token[row, :length], q.dtype)
        queries = q[start : start + new]
        if tree_mask is None:
            y = _attend_causal(queries, keys, values, scale)
        else:
            mask = torch.ones(new, length, dtype=torch.bool)
            mask[:, length - new :] = tree_mask[offset : offset + new * new].view(new, new)
            offset += new * new
            y = _attend(queries, keys, values, scale, mask)
        out[start : start + new] = y


def build_draft_decode_metadata_cpu(
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    topk: int,
    num_steps: int,
    pool_len: int,
) -> Tensor:
    """Slot table of each draft branch: the request's tokens, then the branch's own draft slots.

    Branch j of a request of n tokens owns the slots at positions n + j * num_steps onwards.

    Returns:
        int[batch * topk, pool_len]
    """
    table = req_to_token[req_pool_indices].repeat_interleave(topk, dim=0)
    for b, (row, length) in enumerate(
        zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)
    ):
        for branch in range(1, topk):
            source = length + branch * num_steps
            width = min(num_steps, pool_len - source)
            own = req_to_token[row, source : source + width]
            table[b * topk + branch, length : length + width] = own
    return table


def _refuse(
    logit_cap: float,
    is_cross_attn: bool,
    sliding_window: int,
    sinks: Tensor | None,
    k_scale: float,
    v_scale: float,
) -> None:
    if logit_cap or is_cross_attn or sliding_window > 0 or sinks is not None:
        raise NotImplementedError("logit caps, cross attention, sliding windows or sinks on CPU")
    if k_scale != 1.0 or v_scale != 1.0:
        raise NotImplementedError("a scaled (8-bit) KV cache on CPU")


def _cached(
    k_cache: Tensor, v_cache: Tensor, slots: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Keys and values [tokens, kv_heads, head_dim] at `slots`; views where slots are consecutive,
    which spares a decode step the copy of its whole context."""
    first, count = int(slots[0]), len(slots)
    if int(slots[-1]) - first == count - 1 and bool((slots[1:] - slots[:-1] == 1).all()):
        where: Any = slice(first, first + count)
    else:
        where = slots.long()
    return k_cache[where].to(dtype), v_cache[where].to(dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """[queries, heads, head_dim]"""
    return scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        attn_mask=mask,
        scale=scale,
        enable_gqa=True,
    )[0].transpose(0, 1)


def _attend_causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """The queries are the last tokens. Two unmasked parts, the tokens before and the causal square,
    merged by their log-sum-exp: a mask over a long prefix would double the time and cost
    queries * keys bytes."""
    new, before = len(q), len(k) - len(q)
    y, weight = _flash(q, k[before:], v[before:], scale, causal=True)
    if before:
        y_before, weight_before = _flash(q, k[:before], v[:before], scale, causal=False)
        share = torch.sigmoid(weight_before - weight)[..., None]
        y = torch.lerp(y.float(), y_before.float(), share).to(q.dtype)
    return y.view(-1, new, q.shape[2]).transpose(0, 1)


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Output [kv_heads, heads per kv head, queries, head_dim]; log-sum-exp float32[..., queries].

    The operator behind torch's own attention on CPU; the public function does not return the
    log-sum-exp.
    """
    tokens, kv_heads, head_dim = k.shape
    groups = q.shape[1] // kv_heads
    shape = (kv_heads, groups, tokens, head_dim)
    y, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q.view(len(q), kv_heads, groups, head_dim).permute(1, 2, 0, 3),
        k.transpose(0, 1)[:, None].expand(shape),
        v.transpose(0, 1)[:, None].expand(shape),
        is_causal=causal,
        scale=scale,
    )
    return y, log_sum


def torch_native_backend(runner: Any) -> Any:
    """SGLang's constructor call for `--attention-backend torch_native`."""
    from sglang.srt.layers.attention.intel_amx_backend import IntelAMXAttnBackend

    return IntelAMXAttnBackend(runner)


def create_draft_backend(
    original: Callable[..., Any],
    factory: Any,
    backend_name: str,
    backend_map: dict[str, Callable[[], Any]],
    *args: Any,
    **kwargs: Any,
) -> Any:
    known = {"torch_native": backend_map["intel_amx"], **backend_map}
    return original(factory, backend_name, known, *args, **kwargs)


PATCHES = (
    Patch(
        "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend",
        Kind.REPLACE,
        torch_native_backend,
        "its own class has no target-verify, draft-extend or draft-decode mode",
    ),
    Patch(
        "sglang.srt.speculative.draft_utils.DraftBackendFactory._create_backend",
        Kind.AROUND,
        create_draft_backend,
        "draft backends are looked up by name, and none is registered for torch_native",
    ),
)
