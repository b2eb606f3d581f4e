"""Which device tensors make up a stored object, and in what order.

SGLang keeps attention KV in per-layer buffers `[slots, ...]` addressed by token slot and the
Mamba states in per-layer buffers `[slots, ...]` addressed by state slot. A stored object is the
concatenation of one *page* of every KV buffer (kind `kv`, draft KV included) or of one *slot* of
every Mamba buffer (kind `state`), in transfer-layer order:

    kv object    = [ layer 3: K page | V page ][ layer 3 draft: K page | V page ][ layer 8: ... ]
    state object = [ layer 0: SSM slot | conv slot ][ layer 2: SSM slot | conv slot ] ...

Of latent attention (MLA) a layer's page is one buffer: compressed KV and rotary key, per token.
The trailing pages of layers with a sliding window are a part of the state (`windows.py`), alone
where the model has no Mamba layers:

    state object = [ layer 0: SSM slot | conv slot ][ layer 1: K page | V page of the first page of
                     the window | of the second | ... ][ layer 2: SSM slot | conv slot ] ...

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
from sglang.srt.mem_cache.hybrid_cache.hybrid_pool_assembler import (
    _stage_local_layer_mapping,
    _swa_layer_mappings,
)

from engine.errors import UnsupportedModel
from engine.linker.room import StateRoom, room_of
from engine.linker.segments import ObjectLayout, Segment
from engine.linker.windows import StateParts


@dataclass(frozen=True)
class DevicePools:
    """The engine's device memory as this rank's linker sees it.

    group:      SGLang's pool group; resolves logical transfers into physical ones
    kv, state:  layouts of the two kinds of stored object
    parts:      what a state is made of
    num_layers: transfer layers that the load counter counts
    page_size:  tokens per page
    kv_dtype, conv_dtype, ssm_dtype: "none" of what the model does not have
    running_slots, state_slots, kv_slots: requests, states and tokens that there is room for
    room:       of recurrent states; None for a model without
    """

    group: Any
    kv: ObjectLayout
    state: ObjectLayout
    parts: StateParts
    num_layers: int
    page_size: int
    kv_dtype: str
    conv_dtype: str
    ssm_dtype: str
    running_slots: int
    state_slots: int
    kv_slots: int
    room: StateRoom | None


def describe_pools(params: Any) -> DevicePools:
    """Build the pool group of a Mamba or sliding-window hybrid with GQA, MHA or MLA attention, and
    its draft (MTP) KV.

    params: SGLang's `CacheInitParams`.
    Raises UnsupportedModel when the engine holds another kind of pool.
    """
    kvcache = params.token_to_kv_pool_allocator.get_kvcache()
    attention = _attention_pools(kvcache)
    draft = _draft_pool(params, has_windows=attention.windows is not None)
    page_size = params.page_size
    mamba = getattr(params.req_to_token_pool, "mamba_pool", None)
    try:
        entries = [_attention_entry(PoolName.KV, attention.full, attention.full_layers, page_size)]
        if attention.windows is not None:
            entries.append(
                _attention_entry(
                    PoolName.SWA, attention.windows, attention.window_layers, page_size
                )
            )
        if mamba is not None:
            entries.append(
                assembler._mamba_device_pool_entry(params.req_to_token_pool, kvcache.start_layer)
            )
        if draft is not None:
            # The draft reads its KV after the batch's loads finish, so its layers may ride on any
            # transfer layer; it shares the target's token slots.
            layers = {layer: layer for layer in range(draft.layer_num)}
            entries.append(_attention_entry(PoolName.DRAFT, draft, layers, page_size))
    except ValueError as error:  # scaled KV, int8 states, states of other kinds
        raise UnsupportedModel(
            f"the engine keeps state that snapshots do not hold: {error} Start it without the "
            "option that this names."
        ) from error
    window_pages = 0
    if attention.windows is not None:
        window_pages = -(-params.swa_retain_window // page_size)
    parts = StateParts(mamba is not None, window_pages)
    num_layers = 1 + max(layer for entry in entries for layer in entry.layer_mapping)
    of_state = [e for e in entries if e.name in (PoolName.MAMBA, PoolName.SWA)]
    allocator = params.token_to_kv_pool_allocator
    slots = [] if mamba is None else [int(mamba.size)]
    if attention.windows is not None:
        slots.append(int(allocator.size_swa) // (window_pages * page_size))
    room = room_of(params)
    running = int(params.req_to_token_pool.size)
    return DevicePools(
        group=assembler.DevicePoolGroup(entries, num_layers, page_size),
        kv=_layout([e for e in entries if e not in of_state], parts),
        state=_layout(of_state, parts),
        parts=parts,
        num_layers=num_layers,
        page_size=page_size,
        # The buffers of both float8 formats are of dtype uint8; the pool knows which it is.
        kv_dtype=str(attention.full.dtype).removeprefix("torch."),
        conv_dtype="none" if mamba is None else _dtype(mamba.mamba_cache.conv[0]),
        ssm_dtype="none" if mamba is None else _dtype(mamba.mamba_cache.temporal),
        running_slots=running if room is None else min(running, room.most_requests),
        state_slots=min(slots),
        kv_slots=int(allocator.size if attention.windows is None else allocator.size_full),
        room=room,
    )


@dataclass(frozen=True)
class _AttentionPools:
    """Pools by how far their layers look back. layers: transfer layer -> layer of the pool"""

    full: Any
    full_layers: dict[int, int]
    windows: Any | None
    window_layers: dict[int, int]


def _attention_pools(kvcache: Any) -> _AttentionPools:
    from sglang.srt.mem_cache.memory_pool import HybridLinearKVPool
    from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool

    full = getattr(kvcache, "full_kv_pool", None)
    windows = getattr(kvcache, "swa_kv_pool", None)
    if type(kvcache) is HybridLinearKVPool and _is_plain(full):
        layers = _stage_local_layer_mapping(
            kvcache.full_attention_layer_id_mapping, kvcache.start_layer
        )
        return _AttentionPools(full, layers, None, {})
    if type(kvcache) is SWAKVPool and _is_plain(full) and _is_plain(windows):
        full_layers, window_layers = _swa_layer_mappings(kvcache)
        if full_layers:
            return _AttentionPools(full, full_layers, windows, window_layers)
        raise UnsupportedModel(
            "every attention layer of the model has a sliding window; snapshots need at least one "
            "that looks at the whole context. It is served by SGLang without this linker."
        )
    inner = f" over {type(full).__name__}" if full is not None else ""
    if windows is not None and not _is_plain(windows):
        inner = f" over {type(windows).__name__}"
    raise UnsupportedModel(
        f"the engine's KV pool is {type(kvcache).__name__}{inner}; snapshots need Mamba layers or "
        "sliding windows beside GQA, MHA or MLA attention over whole contexts, and KV in 16, 32 or "
        "unscaled 8 bits (HybridLinearKVPool or SWAKVPool over MHATokenToKVPool or "
        "MLATokenToKVPool). Models with sparse attention, or with neither Mamba layers nor sliding "
        "windows, are served by SGLang without this linker."
    )


def _draft_pool(params: Any, *, has_windows: bool) -> Any | None:
    drafts = [*params.mtp_draft_device_pools, *params.sidecar_draft_device_pools]
    if not drafts:
        return None
    if has_windows:
        raise UnsupportedModel(
            "the engine drafts for a model with sliding windows; snapshots do not carry the KV of "
            "such drafts. Start the engine with --no-mtp."
        )
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
    """SGLang's view of a plain KV pool: one with windows has token slots of its own, the others
    share the model's."""
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

    source = PoolName.SWA if name == PoolName.SWA else PoolName.KV

    if isinstance(pool, MHATokenToKVPool):
        return assembler._mha_device_pool_entry(
            name, pool, layer_mapping, page_size, indices_from_pool=source
        )
    return assembler.DevicePoolEntry(
        name=name,
        indices_from_pool=source,
        device_pool=pool,
        components=[pool.kv_buffer],
        layer_mapping=layer_mapping,
        page_size=page_size,
        rows_are_pages=False,
    )


def _layout(entries: Sequence[Any], parts: StateParts) -> ObjectLayout:
    """A page of a window has a place for each page that the window spans; all else has the first
    place."""
    placed: list[tuple[int, torch.Tensor, str, int]] = []
    for entry in entries:
        places = parts.window_places if entry.name == PoolName.SWA else range(1)
        for layer, mapped in entry.layer_mapping.items():
            indices = [mapped] if isinstance(mapped, int) else list(mapped)
            placed.extend(
                (layer, _byte_rows(component[index], entry.page_size), _dtype(component[index]), at)
                for at in places
                for component in entry.components
                for index in indices
            )
    placed.sort(key=lambda item: item[0])  # stable: keeps the entry order within a layer
    segments, offset = [], 0
    for layer, rows, dtype, place in placed:
        segments.append(Segment(layer, rows, offset, dtype, place))
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
