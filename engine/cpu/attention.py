"""Attention over SGLang's paged KV cache: prefill, decode, and verify of draft trees.

Upstream's `intel_amx` backend drives every mode, speculation included, through two operators of
its CPU wheel. We run that backend on the torch versions of them below (installed by
engine/cpu/sgl_kernel), under the name `torch_native`, whose own class knows no speculation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.patch import Kind, Patch

_BLOCK = 8192
"""Tokens attended to at once. Where slots are scattered their keys and values are copied, so this
bounds the copy; it is the same where they are not, since results must not depend, to the bit, on
which slots a session got."""
_WINDOW_BLOCK = 512
"""Queries over sliding windows computed at once: their scores are all held, with those of the
tokens of one window before them."""


class Part(NamedTuple):
    """Attention over some of the tokens, to be merged with that over others.

    y:      float32[kv_heads, heads per kv head, queries, head_dim]
    weight: float32[kv_heads, heads per kv head, queries], log of the sum of exponentiated scores
    """

    y: Tensor
    weight: Tensor


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
        sliding_window: the latest tokens that are seen, this one included; all if not positive.
        attn_logits: upstream's scratch space; unused.
    """
    _refuse(logit_cap, is_cross_attn, sinks, k_scale, v_scale)
    if key is not None and value is not None:
        k_cache[loc] = key.view(-1, *k_cache.shape[1:]).to(k_cache.dtype)
        v_cache[loc] = value.view(-1, *v_cache.shape[1:]).to(v_cache.dtype)
    for i, (row, length) in enumerate(
        zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)
    ):
        first = max(0, length - sliding_window) if sliding_window > 0 else 0
        slots = req_to_token[row, first:length]
        out[i] = _rows(_attend_all(q[i : i + 1], k_cache, v_cache, slots, scale))[0]


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
        sliding_window: the latest tokens that a token sees, itself included; all if not positive.
        k, v, max_extend_len: the new keys and values once more; unused.
    """
    _refuse(logit_cap, is_cross_attn, sinks, k_scale, v_scale)
    if not is_causal:
        raise NotImplementedError("attention that is not causal")
    if sliding_window > 0 and tree_mask is not None:
        raise NotImplementedError("draft trees over sliding windows on CPU")
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
        queries, before = q[start : start + new], length - new
        if sliding_window > 0:
            slots = req_to_token[row, :length]
            out[start : start + new] = _attend_windows(
                queries, k_cache, v_cache, slots, sliding_window, scale
            )
            continue
        own = _cached(k_cache, v_cache, req_to_token[row, before:length], q.dtype)
        if tree_mask is None:
            y = _attend_causal(queries, *own, scale)
        else:
            mask = tree_mask[offset : offset + new * new].view(new, new)
            offset += new * new
            y = _attend_masked(queries, *own, scale, mask)
        if before:
            slots = req_to_token[row, :before]
            y = _merge(_attend_all(queries, k_cache, v_cache, slots, scale), y)
        out[start : start + new] = _rows(y)


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
    sinks: Tensor | None,
    k_scale: float,
    v_scale: float,
) -> None:
    if logit_cap or is_cross_attn or sinks is not None:
        raise NotImplementedError("logit caps, cross attention or sinks on CPU")
    if k_scale != 1.0 or v_scale != 1.0:
        raise NotImplementedError("a scaled (8-bit) KV cache on CPU")


def _attend_windows(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, window: int, scale: float
) -> Tensor:
    """Each query over the `window` tokens up to its own. The queries' own are the last of `slots`.

    Returns:
        [queries, heads, head_dim]
    """
    rows = []
    for start in range(0, len(q), _WINDOW_BLOCK):
        block = q[start : start + _WINDOW_BLOCK]
        first = len(slots) - len(q) + start
        oldest, end = max(0, first - window + 1), first + len(block)
        k, v = _cached(k_cache, v_cache, slots[oldest:end], q.dtype)
        own, other = torch.arange(first, end)[:, None], torch.arange(oldest, end)
        seen = (other <= own) & (other > own - window)
        rows.append(_rows(_attend_masked(block, k, v, scale, seen)))
    return torch.cat(rows)


def _attend_all(q: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, scale: float) -> Part:
    """Every query over all tokens at `slots`."""
    groups = q.shape[1] // k_cache.shape[1]
    folded = _by_kv_head(q, k_cache.shape[1]).flatten(1, 2)[None]
    merged: Part | None = None
    for start in range(0, len(slots), _BLOCK):
        k, v = _cached(k_cache, v_cache, slots[start : start + _BLOCK], q.dtype)
        y, weight = _flash(folded, k.transpose(0, 1)[None], v.transpose(0, 1)[None], scale)
        part = Part(y[0].float(), weight[0])
        merged = part if merged is None else _merge(merged, part)
    assert merged is not None, "a request without tokens"
    kv_heads = k_cache.shape[1]
    return Part(
        merged.y.view(kv_heads, groups, len(q), -1), merged.weight.view(kv_heads, groups, len(q))
    )


def _attend_causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Part:
    """Each query over the keys up to its own."""
    kv_heads = k.shape[1]
    shape = (kv_heads, q.shape[1] // kv_heads, *k.shape[::2])
    y, weight = _flash(
        _by_kv_head(q, kv_heads),
        k.transpose(0, 1)[:, None].expand(shape),
        v.transpose(0, 1)[:, None].expand(shape),
        scale,
        causal=True,
    )
    return Part(y.float(), weight)


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Part:
    """mask: bool[queries, keys], no row of it empty."""
    keys, values = (t.transpose(0, 1)[:, None].float() for t in (k, v))
    scores = _by_kv_head(q, k.shape[1]).float() @ keys.transpose(-1, -2) * scale
    scores.masked_fill_(~mask, float("-inf"))
    return Part(torch.softmax(scores, dim=-1) @ values, torch.logsumexp(scores, dim=-1))


def _by_kv_head(q: Tensor, kv_heads: int) -> Tensor:
    """[queries, heads, head_dim] -> [kv_heads, heads per kv head, queries, head_dim]"""
    return q.view(len(q), kv_heads, -1, q.shape[2]).permute(1, 2, 0, 3)


def _cached(
    k_cache: Tensor, v_cache: Tensor, slots: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Keys and values [tokens, kv_heads, head_dim] at `slots`; views where slots are consecutive,
    which spares the copy."""
    first, count = int(slots[0]), len(slots)
    if int(slots[-1]) - first == count - 1 and bool((slots[1:] - slots[:-1] == 1).all()):
        end = first + count
        return k_cache[first:end].to(dtype), v_cache[first:end].to(dtype)
    # `index_select` copies whole rows, several times as fast as indexing does it.
    return k_cache.index_select(0, slots).to(dtype), v_cache.index_select(0, slots).to(dtype)


def _flash(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Output [batch, heads, queries, head_dim]; log-sum-exp float32[..., queries].

    The operator behind torch's own attention on CPU; the public function does not return the
    log-sum-exp.
    """
    y, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, is_causal=causal, scale=scale
    )
    return y, log_sum


def _merge(one: Part, other: Part) -> Part:
    """Attention over the tokens of both, as if at once."""
    share = torch.sigmoid(other.weight - one.weight)[..., None]
    return Part(torch.lerp(one.y, other.y, share), torch.logaddexp(one.weight, other.weight))


def _rows(part: Part) -> Tensor:
    """[queries, heads, head_dim]"""
    return part.y.flatten(0, 1).transpose(0, 1)


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
