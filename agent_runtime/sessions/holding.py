"""A session's state on demand: durable now, kept on the device, or off it.

`suspend` and `resume` are the usual way. These are for who knows better than the runtime what comes
next: `persist` before a risky step, `hold` what is about to be forked many times, `drop` what will
not be needed soon.
"""

from __future__ import annotations

import contextlib
import time

from agent_runtime.errors import NotHeld
from agent_runtime.scheduling.residency import Residency
from agent_runtime.sessions.whereabouts import engine_of
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.residency import (
    Dropped,
    Held,
    HoldRequest,
    Persisted,
    PersistRequest,
    Released,
)
from engine.errors import EngineUnreachable
from engine.pool import Engine, EnginePool
from state_store.errors import ServersChanged
from state_store.forms import FormName
from state_store.records import Session
from state_store.store import StateStore

_TIMEOUT = 20.0  # seconds for the engine's answer, which waits for a step of its scheduler


async def confirmed(
    store: StateStore, residency: Residency, session_id: str, durability: str
) -> str:
    """Have the store confirm all that was written for the session; the durability reached.

    Raises DurabilityNotReached; ServersChanged if turns since the last confirmation may be lost:
    the next one speaks of the head that is there now.
    """
    try:
        reached = await store.confirm(durability, since=residency.servers(session_id))
    except ServersChanged:
        residency.forget_servers(session_id)
        raise
    residency.forget_servers(session_id)
    return reached


async def give_up(pool: EnginePool, residency: Residency, session_id: str) -> None:
    """Let the engine that has the session on its device reuse the memory, and end a hold that this
    process asked for; an engine that is gone has done both."""
    place = residency.place(session_id)
    engine = None if place is None else await pool.with_boot(place.boot_id)
    if place is not None and engine is not None:
        with contextlib.suppress(EngineUnreachable):
            if residency.is_held(session_id):
                await engine.let_go(session_id, timeout=_TIMEOUT)
            await engine.client.release(place.tag)
    residency.left(session_id)
    residency.let_go(session_id)


class Holding:
    """Commands about the state of a session's head."""

    def __init__(
        self, store: StateStore, pool: EnginePool, turns: Turns, residency: Residency
    ) -> None:
        self._store = store
        self._pool = pool
        self._turns = turns
        self._residency = residency

    async def persist(self, session_id: str, request: PersistRequest) -> Persisted:
        """Make the head durable, and leave it where it is.

        Turns that wait for the store are committed first. What the device holds of the head and
        the store has lost is stored again. Raises LeaseHeld while a turn runs, KeptTurnsRefused,
        and what `confirmed` raises.
        """
        started = time.perf_counter()
        async with self._turns.writing(session_id) as (session, lease):
            session = await self._turns.outage.catch_up(session, lease)
            reason = await self._stored_again(session)
            reached = await confirmed(self._store, self._residency, session_id, request.durability)
        return Persisted(
            session_id=session_id,
            head=session.head,
            durable=reached,
            reason=reason,
            seconds=time.perf_counter() - started,
        )

    async def hold(self, session_id: str, request: HoldRequest) -> Held:
        """Keep what the device holds of the head from eviction. Another hold of the session ends.
        Raises NotHeld, NeedsState, NoEngine, EngineUnreachable."""
        session, engine = await self._placed(session_id, "held on a device")
        hashes = await self._hashes(session, engine)
        held = await engine.hold(hashes, name=session_id, seconds=request.seconds, timeout=_TIMEOUT)
        if held.reason is not None:
            raise NotHeld(
                f"{session_id} is not held on {engine.record.engine_id}: {held.reason}. It is "
                "unchanged. A turn brings its state to the device."
            )
        self._residency.placed(session_id, engine.record.boot_id)
        self._residency.held(session_id, request.seconds)
        return Held(
            session_id=session_id,
            head=session.head,
            engine=engine.record.engine_id,
            held_tokens=held.pages * engine.record.page_size,
            seconds=request.seconds,
        )

    async def release(self, session_id: str) -> Released:
        """End the session's hold. Raises NeedsState, NoEngine, EngineUnreachable."""
        _, engine = await self._placed(session_id, "held on a device")
        was_held = await engine.let_go(session_id, timeout=_TIMEOUT)
        self._residency.let_go(session_id)
        return Released(session_id=session_id, engine=engine.record.engine_id, was_held=was_held)

    async def drop(self, session_id: str) -> Dropped:
        """Free the device of what only the head uses, and end its hold. What others go on from
        or hold stays, and what is not stored.

        Raises LeaseHeld while a turn runs, NeedsState, NoEngine, EngineUnreachable."""
        async with self._turns.writing(session_id):
            session, engine = await self._placed(session_id, "dropped from a device")
            hashes = await self._hashes(session, engine)
            await engine.let_go(session_id, timeout=_TIMEOUT)  # whichever runtime asked for it
            await give_up(self._pool, self._residency, session_id)
            pages = await engine.drop(hashes, timeout=_TIMEOUT)
        return Dropped(
            session_id=session_id,
            head=session.head,
            engine=engine.record.engine_id,
            freed_tokens=pages * engine.record.page_size,
        )

    async def _stored_again(self, session: Session) -> str | None:
        """Why not all that the device holds of the head is stored, None if it is, or if no device
        that this runtime knows of holds it."""
        place = self._residency.place(session.id)
        engine = None if place is None else await self._pool.with_boot(place.boot_id)
        if engine is None or not (hashes := await self._hashes(session, engine)):
            return None
        try:
            form = FormName.of(session.body)
            await engine.renew(hashes, timeout=_TIMEOUT, form=form)  # it forgets what is lost
            settled = await engine.persist(hashes, timeout=_TIMEOUT, form=form)
        except EngineUnreachable as error:
            return str(error)
        if len(hashes) in settled.states:
            return None
        return settled.reason or "the device does not hold all that the store has lost"

    async def _placed(self, session_id: str, done: str) -> tuple[Session, Engine]:
        session = await self._store.session(session_id)
        await self._turns.stateless.require_state(session, done)
        return session, await engine_of(session, self._pool, self._turns.placing, self._residency)

    async def _hashes(self, session: Session, engine: Engine) -> list[str]:
        """The page chain of the head, up to its boundary."""
        history = await self._turns.history(session.head, session, engine)
        return history.hashes[: history.boundary // engine.record.page_size]
