"""Mamba weights cut for one rank, where a rank needs a copy of a group that it shares.

A model of one B/C group keeps it on every rank beside that rank's heads. On a CPU upstream takes
the copies for padding that is missing from the checkpoint, and refuses to load it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from engine.patch import Kind, Patch

Part = tuple[int, int, bool]
"""(rows over all ranks with all copies, rows of those that are copies, whether it is copied)"""
Load = Callable[[Tensor, Tensor], None]


def mamba_v2_sharded_weight_loader(
    original: Callable[..., Load], shard_spec: list[Part], tp_size: int, tp_rank: int
) -> Load:
    """Upstream's loader, or ours if a part is copied to several ranks.

    Returns:
        A function of (this rank's parameter [rows, ...], the checkpoint's tensor [all rows, ...])
        that fills the first from the second.
    """
    if not any(copies for _, copies, _ in shard_spec):
        return original(shard_spec, tp_size, tp_rank)

    def load(param: Tensor, loaded_weight: Tensor) -> None:
        place = stored = 0
        for rows, copies, is_copied in shard_spec:
            share = rows // tp_size
            first = stored + (0 if is_copied else tp_rank * share)
            param.data[place : place + share] = loaded_weight[first : first + share]
            place += share
            stored += rows - copies

    return load


PATCHES = (
    Patch(
        "sglang.srt.layers.attention.mamba.mamba.mamba_v2_sharded_weight_loader",
        Kind.AROUND,
        mamba_v2_sharded_weight_loader,
        "on a CPU it takes a group that is copied to every rank for padding, and refuses",
    ),
)
