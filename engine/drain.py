"""Emptying an engine, so that it can be ended without anybody noticing.

    no new turns ──► running ones end ──► its states are stored ──► and durable ──► it may go

Sessions that it holds lose nothing: their next turn reads their state from the store on another
engine.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from engine.errors import EngineBusy
from engine.pool import Engine
from state_store.errors import DurabilityNotReached
from state_store.store import StateStore

_POLL = 0.2  # seconds between looks at what is still running
_IDLE_LOOKS = 3  # looks in a row that must find nothing running: a turn may be just on its way
_PATIENCE = 5.0  # seconds that the engine gets to answer a look


@dataclass(frozen=True)
class Drained:
    """waited: seconds; durable: the level that what it stored has reached; shortfall: why that is
    not `fsync`, or that it was still writing, None if all is well. What could not be written before
    does not count: no snapshot names it."""

    waited: float
    durable: str
    shortfall: str | None


async def drain(store: StateStore, engine: Engine, *, timeout: float) -> Drained:
    """Give it no more turns and return when it is empty. It stays up, and takes no turns until
    `Engine.drain(draining=False)`.

    Raises EngineBusy when turns still run after `timeout` s (no new ones have come since), and
    EngineUnreachable when it does not answer: then its sessions are as they were committed.
    """
    started = time.monotonic()
    await engine.drain(draining=True)
    await _until_idle(engine, deadline=started + timeout)
    settled = await engine.settle([], timeout=max(1.0, started + timeout - time.monotonic()))
    try:
        durable, shortfall = await store.confirm("fsync"), settled.reason
    except DurabilityNotReached as error:
        durable, shortfall = error.reached, settled.reason or str(error)
    return Drained(time.monotonic() - started, durable, shortfall)


async def _until_idle(engine: Engine, *, deadline: float) -> None:
    idle = 0
    while idle < _IDLE_LOOKS:
        load = await engine.client.load(timeout=_PATIENCE)
        commands = (await engine.counts(timeout=_PATIENCE)).commands  # before a turn's request
        busy = load is None or load.running + load.waiting + commands > 0
        idle = 0 if busy else idle + 1
        if time.monotonic() > deadline and busy:
            requests = "an unknown number of" if load is None else load.running + load.waiting
            raise EngineBusy(
                f"engine {engine.record.engine_id} still runs {requests} requests and {commands} "
                "commands. It takes no new turns; drain it again to wait longer. If it is ended "
                "now, other engines go on with these turns."
            )
        await asyncio.sleep(_POLL)
