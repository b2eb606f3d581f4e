"""What a scheduler says of its engine."""

from __future__ import annotations

from agent_runtime.wire.base import Wire


class EngineSlots(Wire):
    """What this runtime's scheduler says of one engine, counted since either started.

    waiting:        turns that wait, by tenant
    resident, away: idle sessions on its device; ones that left it and are expected back
    turns:          that ended with a result; `reprefilled`: of those, the ones that computed again
                    what their session's head covered
    starts:         turns by where their session's state was believed to be: `new`, `device`,
                    `staged` (fetched before), `stored`
    token_hit_rate: share of the histories' tokens that were on the device
    refused:        answers with 429
    """

    engine: str
    policy: str
    slots: int
    running: int
    waiting: dict[str, int]
    resident: int
    away: int
    used_states: int
    state_slots: int
    used_tokens: int
    kv_slots: int
    turns: int
    reprefilled: int
    starts: dict[str, int]
    token_hit_rate: float
    suspended: int
    prefetched: int
    refused: int
