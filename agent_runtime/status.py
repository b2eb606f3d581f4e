"""Errors of every layer as problem details: one place decides status and code."""

from __future__ import annotations

from agent_runtime.errors import TorporError
from agent_runtime.models import Problem
from engine import errors as engine
from state_store import errors as store

_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (engine.NoEngine, 503, "no_engine"),
    (engine.EngineUnreachable, 503, "engine_unreachable"),
    (engine.LoadFailed, 503, "load_failed"),
    (engine.EngineRefused, 502, "engine_refused"),
    (store.StoreUnavailable, 503, "store_unavailable"),
    (store.NotFound, 404, "not_found"),
    (store.InvalidId, 400, "invalid_id"),
    (store.InvalidLabels, 400, "invalid_labels"),
    (store.LeaseHeld, 409, "lease_held"),
    (store.LeaseLost, 409, "lease_lost"),
    (store.HeadMoved, 409, "head_moved"),
    (store.VaultLocked, 503, "vault_locked"),
    (store.InvalidDurability, 400, "invalid_durability"),
    (store.DurabilityNotReached, 503, "durability_not_reached"),
    (store.ObjectsMissing, 409, "objects_missing"),
    (store.StoreRefused, 502, "store_refused"),
    (store.CorruptObject, 500, "corrupt_object"),
)


def problem_of(error: Exception) -> Problem:
    """The problem document of one of our errors."""
    if isinstance(error, TorporError):
        status, code = error.status, error.code
    else:
        status, code = next(
            ((status, code) for kind, status, code in _STATUS if isinstance(error, kind)),
            (500, "internal"),
        )
    return Problem(title=type(error).__name__, status=status, code=code, detail=str(error))
