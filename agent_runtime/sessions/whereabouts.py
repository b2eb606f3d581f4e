"""Where a session's state is now, asked of the engine and the store, not remembered."""

from __future__ import annotations

from agent_runtime.scheduling.residency import Residency
from agent_runtime.turns.placing import Placing
from agent_runtime.turns.stateless import WHY, tokens_of
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.residency import Whereabouts
from engine.errors import EngineUnreachable, NoEngine
from engine.pool import Engine, EnginePool
from engine.replies import InPlace
from state_store.forms import FormName
from state_store.records import Session
from state_store.store import StateStore

_TIMEOUT = 20.0  # seconds for the engine's answer, which waits for a step of its scheduler


async def whereabouts(
    store: StateStore, pool: EnginePool, turns: Turns, residency: Residency, session_id: str
) -> Whereabouts:
    """Of a session's head. Raises NotFound; StoreUnavailable."""
    session = await store.session(session_id)
    found = Whereabouts(session_id=session_id, head=session.head)
    if session.head is None:
        return found
    if await turns.stateless.holds(session):
        tokens = tokens_of(await store.snapshot(session.head))
        told = {"in_store": "none", "tokens": tokens, "reason": WHY}
        return found.model_copy(update=told)
    found = found.model_copy(update={"in_store": await store.residency(session_id)})
    try:
        engine = await engine_of(session, pool, turns.placing, residency)
    except NoEngine as error:
        return found.model_copy(update={"reason": str(error)})
    history = await turns.history(session.head, session, engine)
    page_size = engine.record.page_size
    hashes = history.hashes[: history.boundary // page_size]
    known = {"tokens": len(history.tokens), "boundary": history.boundary}
    found = found.model_copy(update=known | {"engine": engine.record.engine_id})
    try:
        form = FormName.of(session.body)
        there = await engine.where(hashes, name=session_id, timeout=_TIMEOUT, form=form)
        work = await engine.progress(session_id, timeout=_TIMEOUT)
    except EngineUnreachable as error:
        return found.model_copy(update={"reason": str(error)})
    return found.model_copy(
        update={
            "device_tokens": _tokens(there.device, page_size),
            "staged_tokens": _tokens(there.staged, page_size),
            "stored_tokens": _tokens(there.stored, page_size),
            "held_for": there.held_for,
            "prefilled_tokens": work.prefilled_tokens,
            "loaded_bytes": work.loaded_bytes,
            "offloaded_bytes": work.offloaded_bytes,
            "failed_loads": work.failed_loads,
        }
    )


async def engine_of(
    session: Session, pool: EnginePool, placing: Placing, residency: Residency
) -> Engine:
    """The engine that this runtime believes to hold it, or the one that would get it."""
    place = residency.place(session.id)
    engine = None if place is None else await pool.with_boot(place.boot_id)
    return engine or (await placing.place(session)).engine


def _tokens(place: InPlace, page_size: int) -> int:
    return max(place.states, default=0) * page_size
