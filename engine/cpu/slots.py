"""Tables and copies of cache slots, as SGLang's CPU branches call them.

`req_to_token` is int32[requests, positions]: the KV slot of each position of each request.
All functions write their last tensor argument (or the first two, for the KV copy) in place.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor


def copy_all_layer_kv_cache_cpu(
    data_ptrs: Tensor, strides: Tensor, tgt_loc: Tensor, src_loc: Tensor
) -> None:
    """Copy rows `src_loc` onto rows `tgt_loc` in every buffer, as if all were read first.

    Args:
        data_ptrs: int64[buffers], addresses. strides: int64[buffers], bytes per row.
    """
    targets, sources = tgt_loc.tolist(), src_loc.tolist()
    for base, stride in zip(data_ptrs.tolist(), strides.tolist(), strict=True):
        rows = [ctypes.string_at(base + source * stride, stride) for source in sources]
        for target, row in zip(targets, rows, strict=True):
            ctypes.memmove(base + target * stride, row, stride)


def assign_req_to_token_pool_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """Write the slots `out_cache_loc`, end to end, to positions [start, end) of each request."""
    taken = 0
    for row, start, end in _spans(req_pool_indices, start_offset, end_offset):
        count = end - start
        req_to_token[row, start:end] = out_cache_loc[taken : taken + count]
        taken += count


def assign_extend_cache_locs_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """The reverse: read positions [start, end) of each request into `out_cache_loc`."""
    filled = 0
    for row, start, end in _spans(req_pool_indices, start_offset, end_offset):
        count = end - start
        out_cache_loc[filled : filled + count] = req_to_token[row, start:end]
        filled += count


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    seq_lens: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
    topk: int,
    num_steps: int,
) -> None:
    """Read the topk * num_steps slots after each request's tokens into `out_cache_loc`."""
    ends = seq_lens + topk * num_steps
    assign_extend_cache_locs_cpu(
        req_pool_indices, req_to_token, seq_lens, ends, out_cache_loc, pool_len
    )


def fill_accept_out_cache_loc_cpu(
    accept_index: Tensor, out_cache_loc: Tensor, accept_out_cache_loc: Tensor
) -> None:
    """Pack the slots of accepted draft rows; -1 in `accept_index` is an unused place."""
    accepted = accept_index.flatten()
    accepted = accepted[accepted >= 0].long()
    accept_out_cache_loc[: len(accepted)] = out_cache_loc[accepted]


def fill_bonus_tokens_cpu(
    accept_tokens: Tensor, accept_lens: Tensor, bonus_tokens: Tensor, accept_stride: int
) -> None:
    """The last accepted token of each request, whose tokens start every `accept_stride`."""
    batch = len(accept_lens)
    last = torch.arange(batch) * accept_stride + accept_lens.long() - 1
    bonus_tokens[:batch] = accept_tokens.flatten()[last]


def rotate_input_ids_cpu(
    input_ids: Tensor,
    extend_start_loc: Tensor,
    extend_seq_lens: Tensor,
    topk_index: Tensor,
    select_index: Tensor | None = None,
) -> None:
    """Shift each request's ids left by one and append its drafted token (MTP reads token t + 1).

    Args:
        topk_index: int[batch, >= 1]; its first column is appended, at the request's last place or
            at `select_index[i]` of the batch.
    """
    drafted = topk_index.reshape(len(topk_index), -1)
    spans = zip(extend_start_loc.tolist(), extend_seq_lens.tolist(), strict=True)
    for i, (start, count) in enumerate(spans):
        if count > 0:
            input_ids[start : start + count - 1] = input_ids[start + 1 : start + count].clone()
            last = start + count - 1 if select_index is None else int(select_index[i])
            input_ids[last] = drafted[i, 0]


def _spans(rows: Tensor, starts: Tensor, ends: Tensor) -> zip[tuple[int, int, int]]:
    return zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)
