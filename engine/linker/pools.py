"""Which device tensors make up a stored object, and in what order.

SGLang keeps attention KV in per-layer buffers `[slots, ...]` addressed by token slot and the
Mamba states in per-layer buffers `[slots, ...]` addressed by state slot. A stored object is the
concatenation of one *page* of every KV buffer (kind `kv`, draft KV included) or of one *slot* of
every Mamba buffer (kind `state`), in transfer-layer order:

    kv object    = [ layer 3: K page | V page ][ layer 3 draft: K page | V page ][ layer 8: ... ]
    state object = [ layer 0: SSM slot | conv slot ][ layer 2: SSM slot | conv slot ] ...

Of latent attention (MLA) a layer's page is one buffer: compressed KV and rotary key, per token.

Upstream: `sglang/srt/mem_cache/hybrid_cache/linker_pool_assembler.py`. Its own assembler takes
a Mamba model only with a plain MLA pool and no packed draft KV, so the group is built here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.mem_cache.hicache_storage import PoolName
from sglang.srt.mem_cache.hybrid_cache import linker_pool_assembler as assembler
from sglang.srt.mem_cache.hybrid_cache.hybrid_pool_assembler import _stage_local_layer_mapping

from engine.errors import UnsupportedModel
from engine.linker.segments import ObjectLayout, Segment


@dataclass(frozen=True)
class DevicePools:
    """The engine's device memory as this rank's linker sees it.

    group:      SGLang's pool group; resolves logical transfers into physical ones
    kv, state:  layouts of the two kinds of stored object
    num_layers: transfer layers that the load counter counts
    page_size:  tokens per page
    running_slots, state_slots, kv_slots: requests, states and tokens that there is room for
    """

    group: Any
    kv: ObjectLayout
    state: ObjectLayout
    num_layers: int
    page_size: int
    kv_dtype: str
    conv_dtype: str
    ssm_dtype: str
    running_slots: int
    state_slots: int
    kv_slots: int


def describe_pools(params: Any) -> DevicePools:
    """Build the pool group of a Mamba + GQA/MHA/MLA hybrid, with its draft (MTP) KV.

    params: SGLang's `CacheInitParams`.
    Raises UnsupportedModel when the engine holds another kind of pool.
    """
    kvcache = params.token_to_kv_pool_allocator.get_kvcache()
    pool = _full_attention_pool(kvcache)
    draft = _draft_pool(params)
    page_size = params.page_size
    try:
        entries = [
            _attention_entry(
                PoolName.KV,
                pool,
                _stage_local_layer_mapping(
                    kvcache.full_attention_layer_id_mapping, kvcache.start_layer
                ),
                page_size,
            ),
            assembler._mamba_device_pool_entry(params.req_to_token_pool, kvcache.start_layer),
        ]
        if draft is not None:
            # The draft reads its KV after the batch's loads finish, so its layers may ride on any
            # transfer layer; it shares the target's token slots.
            entries.append(
                _attention_entry(
                    PoolName.DRAFT,
                    draft,
                    {layer: layer for layer in range(draft.layer_num)},
                    page_size,
                )
            )
    except ValueError as error:  # scaled KV, int8 states, states of other kinds
        raise UnsupportedModel(
            f"the engine keeps state that snapshots do not hold: {error} Start it without the "
            "option that this names."
        ) from error
    num_layers = 1 + max(layer for entry in entries for layer in entry.layer_mapping)
    mamba = params.req_to_token_pool.mamba_pool.mamba_cache
    return DevicePools(
        group=assembler.DevicePoolGroup(entries, num_layers, page_size),
        kv=_layout([e for e in entries if e.name != PoolName.MAMBA]),
        state=_layout([e for e in entries if e.name == PoolName.MAMBA]),
        num_layers=num_layers,
        page_size=page_size,
        # The buffers of both float8 formats are of dtype uint8; the pool knows which it is.
        kv_dtype=str(pool.dtype).removeprefix("torch."),
        conv_dtype=_dtype(mamba.conv[0]),
        ssm_dtype=_dtype(mamba.temporal),
        running_slots=int(params.req_to_token_pool.size),
        state_slots=int(params.req_to_token_pool.mamba_pool.size),
        kv_slots=int(params.token_to_kv_pool_allocator.size),
    )


def _full_attention_pool(kvcache: Any) -> Any:
    from sglang.srt.mem_cache.memory_pool import HybridLinearKVPool

    pool = getattr(kvcache, "full_kv_pool", None)
    if type(kvcache) is not HybridLinearKVPool or not _is_plain(pool):
        inner = f" over {type(pool).__name__}" if pool is not None else ""
        raise UnsupportedModel(
            f"the engine's KV pool is {type(kvcache).__name__}{inner}; snapshots need a Mamba "
            "hybrid with GQA, MHA or MLA attention over whole contexts and KV in 16, 32 or "
            "unscaled 8 bits (HybridLinearKVPool over MHATokenToKVPool or MLATokenToKVPool). "
            "Models with sliding windows, sparse attention or no Mamba state are served by SGLang "
            "without this linker."
        )
    return pool


def _draft_pool(params: Any) -> Any | None:
    drafts = [*params.mtp_draft_device_pools, *params.sidecar_draft_device_pools]
    if not drafts:
        return None
    draft = getattr(drafts[0], "full_kv_pool", drafts[0])
    if len(drafts) > 1 or params.mtp_draft_mamba_pools or not _is_plain(draft):
        raise UnsupportedModel(
            f"the engine drafts with {len(drafts)} KV pools ({type(draft).__name__}) and "
            f"{len(params.mtp_draft_mamba_pools)} Mamba pools; snapshots carry one plain KV pool. "
            "Start the engine with a single MTP layer or with --no-mtp."
        )
    if draft.page_size != params.page_size:
        raise UnsupportedModel(
            f"a page is {draft.page_size} tokens in the draft's KV pool and {params.page_size} in "
            "the model's; snapshots need one size. Start the engine with --no-mtp."
        )
    return draft


def _is_plain(pool: Any) -> bool:
    """Subclasses of these add scales or indices to the buffers, or lay them out otherwise."""
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool

    return type(pool) is MHATokenToKVPool or (
        type(pool) is MLATokenToKVPool and pool.kv_scale_buffer is None and not pool.use_dsa
    )


def _attention_entry(
    name: PoolName, pool: Any, layer_mapping: dict[int, int], page_size: int
) -> Any:
    """SGLang's view of a plain KV pool, whose pages are addressed by the model's token slots."""
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

    if isinstance(pool, MHATokenToKVPool):
        return assembler._mha_device_pool_entry(
            name, pool, layer_mapping, page_size, indices_from_pool=PoolName.KV
        )
    return assembler.DevicePoolEntry(
        name=name,
        indices_from_pool=PoolName.KV,
        device_pool=pool,
        components=[pool.kv_buffer],
        layer_mapping=layer_mapping,
        page_size=page_size,
        rows_are_pages=False,
    )


def _layout(entries: Sequence[Any]) -> ObjectLayout:
    placed: list[tuple[int, torch.Tensor, str]] = []
    for entry in entries:
        for layer, mapped in entry.layer_mapping.items():
            indices = [mapped] if isinstance(mapped, int) else list(mapped)
            placed.extend(
                (layer, _byte_rows(component[index], entry.page_size), _dtype(component[index]))
                for component in entry.components
                for index in indices
            )
    placed.sort(key=lambda item: item[0])  # stable: keeps the entry order within a layer
    segments, offset = [], 0
    for layer, rows, dtype in placed:
        segments.append(Segment(layer, rows, offset, dtype))
        offset += int(rows.shape[1])
    return ObjectLayout(tuple(segments))


def _byte_rows(buffer: torch.Tensor, slots_per_row: int) -> torch.Tensor:
    """View `buffer` [slots, ...] as uint8[slots // slots_per_row, row_bytes] without a copy."""
    rows = buffer.shape[0] // slots_per_row
    whole = buffer[: rows * slots_per_row]
    if not whole.is_contiguous():
        raise UnsupportedModel(
            f"a state buffer of shape {tuple(buffer.shape)} is not contiguous per slot; "
            "its bytes cannot be stored as one row."
        )
    return whole.reshape(rows, -1).view(torch.uint8)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
