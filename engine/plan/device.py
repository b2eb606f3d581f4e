"""What fits into the memory of one engine's GPUs.

    for weights and pools = memory x mem-fraction-static
    one running session   = context x KV per token + (SLOTS + draft tokens) x state
    one idle session      = context x KV per token + 1 state
    for all of them       = WAITING states besides

SGLang 0.5.23 gives each running request five state slots with the `extra_buffer` strategy and
overlapped scheduling (three, and two to track states in) and, when it speculates, room for one more
state per draft token; every pool has one padding slot
(`mem_cache/kv_cache_configurator.py`: `_calculate_mamba_ratio`, `_handle_max_mamba_cache`).
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.plan.sizes import StateSize

SLOTS = 5
"""Recurrent-state slots per running request."""
WAITING = 2
"""Slots that requests leave to states that wait to be stored, see `engine/linker/room.py`."""


@dataclass(frozen=True)
class DeviceFit:
    """Of one attention group of one engine; bytes are per GPU.

    running:  sessions of the full context that can generate at once
    resident: sessions of the full context that can be kept ready while none runs
    """

    for_pools: int
    running_session: int
    idle_session: int
    running: int
    resident: int


def fit(
    memory: int, weights: int, size: StateSize, *, context: int, page: int, draft_tokens: int
) -> DeviceFit:
    """memory: bytes per GPU for weights and pools; weights: bytes per GPU; context: tokens."""
    kv = -(-context // page) * page * size.per_token
    for_pools = memory - weights
    padding = (1 + WAITING + draft_tokens) * size.state + page * size.per_token
    running_session = kv + (SLOTS + draft_tokens) * size.state
    left = max(0, for_pools - padding)
    return DeviceFit(
        for_pools=for_pools,
        running_session=running_session,
        idle_session=kv + size.state,
        running=left // running_session,
        resident=left // (kv + size.state),
    )
