"""Which engine takes a turn, and why.

    1. the engine that holds the session's head
    2. the engine that holds what it was forked from
    3. the engine with the fewest requests; of equals, the one with the fewest sessions

Only a preference: every engine with the same state format can take any turn, since state is in the
store, but that of an encrypted tenant only one that has the master key. The first two spare reading
it from there.

Behind a router nobody can say which engine a turn gets. So while any engine lacks the master key of
an encrypted tenant, that tenant's turns go past the router, to an engine that has it.

Which state format the engine has to have, `formats.py` decides.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agent_runtime.scheduling.residency import Residency
from agent_runtime.turns.formats import Formats
from engine.pool import Engine, EnginePool
from engine.records import EngineRecord
from state_store.errors import NotFound
from state_store.records import Session
from state_store.store import StateStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """An engine for a turn. `why`: a phrase for people. past_router: it is asked directly, though
    there is a router."""

    engine: Engine
    why: str
    past_router: bool = False


class Placing:
    """Places turns on the engines of a pool."""

    def __init__(self, store: StateStore, pool: EnginePool, residency: Residency) -> None:
        self._store = store
        self._pool = pool
        self._residency = residency
        self._formats = Formats(store)
        self._told: dict[str, list[str]] = {}  # master key -> engines last said to lack it

    async def place(
        self, session: Session, *, without: Collection[str] = (), like: Engine | None = None
    ) -> Placement:
        """The engine for the session's next turn, none of those with a boot id in `without`.

        like: has the state format that it must have: a turn that has begun cannot change that

        Raises NoEngine.
        """
        records = await self._pool.records()
        if like is not None:
            format_id = like.record.fingerprint.id
        else:
            format_id = await self._formats.wanted(session, records)
        master_key = None
        if session.body.encrypted:
            master_key = await self._store.master_key_id(session.body.tenant)
        usable = await self._pool.usable(
            format_id, without=without, master_key=master_key, records=records
        )
        chosen = await self._chosen(session, usable)
        lacking = [] if self._pool.router is None else _lacking(master_key, records)
        if not lacking:
            return chosen
        why = f"lack master key {master_key} of the session's tenant: {', '.join(lacking)}"
        if self._told.get(master_key or "") != lacking:
            self._told[master_key or ""] = lacking
            logger.warning("turns go past the router, since some engines %s", why)
        return Placement(
            chosen.engine, f"{chosen.why}; past the router, since some {why}", past_router=True
        )

    async def why_unsealed(self, session: Session, engine: Engine) -> str | None:
        """Why an engine can neither load nor store the session's state, if that is for want of its
        tenant's key. Raises StoreUnavailable."""
        if not session.body.encrypted:
            return None
        master_key = await self._store.master_key_id(session.body.tenant)
        if not _lacking(master_key, [engine.record]):
            return None
        return (
            f"the router chose engine {engine.record.engine_id}, which lacks master key "
            f"{master_key} of the session's tenant: it loads and stores nothing of it; start it "
            "with --master-key"
        )

    async def _chosen(self, session: Session, usable: Sequence[Engine]) -> Placement:
        if len(usable) > 1:
            for boot_id, why in await self._near(session):
                for engine in usable:
                    if engine.record.boot_id == boot_id:
                        return Placement(engine, why)
        least = min(usable, key=self._load)
        if len(usable) == 1:
            return Placement(least, "it is the only one that can")
        return Placement(least, f"it is the least loaded of {len(usable)}")

    async def _near(self, session: Session) -> list[tuple[str, str]]:
        """Boot ids of engines that hold the head or what is before it, best first."""
        near: list[tuple[str, str]] = []
        if place := self._residency.place(session.id):
            near.append((place.boot_id, "it holds the session's head"))
        parent = session.body.forked_from
        if parent is not None and (place := self._residency.place(parent)):
            near.append((place.boot_id, f"it holds {parent}, which this is a fork of"))
        if session.head is not None and not near:
            # Another runtime ran the last turn, or this one before it was started again.
            try:
                boot_id = (await self._store.snapshot(session.head)).meta.get("boot_id")
            except NotFound:
                boot_id = None  # the turn itself will say what that means
            if boot_id is not None:
                near.append((boot_id, "it computed the session's head"))
        return near

    def _load(self, engine: Engine) -> tuple[int, int, str]:
        """Of an engine that does not say in time we know only what we gave it, but it is busy."""
        load = engine.load
        requests = load.running + load.waiting if load is not None else 1 << 20
        boot_id = engine.record.boot_id
        return max(requests, engine.turns), self._residency.count(boot_id), engine.record.engine_id


def _lacking(master_key: str | None, records: Sequence[EngineRecord]) -> list[str]:
    """Ids of the engines without it; none if none is needed."""
    if master_key is None:
        return []
    return sorted(record.engine_id for record in records if master_key not in record.master_keys)
