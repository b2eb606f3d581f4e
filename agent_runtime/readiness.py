"""Having an engine ready for a turn: the session's head staged, and what is shared kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from agent_runtime.histories import History
from agent_runtime.residency import Residency
from agent_runtime.settings import RuntimeSettings
from agent_runtime.staging import Staging
from engine.errors import EngineUnreachable
from engine.pool import Engine, EnginePool
from engine.replies import Prefetch
from state_store.records import Session
from state_store.store import StateStore

logger = logging.getLogger(__name__)


class Readiness:
    """Prefetches heads into engines, and renews what a new prompt shares with other sessions."""

    def __init__(
        self, store: StateStore, pool: EnginePool, residency: Residency, settings: RuntimeSettings
    ) -> None:
        self._pool = pool
        self._residency = residency
        self._settings = settings
        self._staging = Staging(store, timeout=settings.prefetch_timeout)

    async def close(self) -> None:
        await self._staging.close()

    async def stage(self, session_id: str, hashes: Sequence[str], engine: Engine) -> Prefetch:
        """See `Staging.stage`."""
        return await self._staging.stage(session_id, hashes, engine)

    async def make_ready(self, session: Session, history: History, engine: Engine) -> list[str]:
        """Have the engine stage the head unless it holds it; reasons why not all of it can be."""
        boot_id = engine.record.boot_id
        pages = history.boundary // engine.record.page_size
        if pages and self._pool.router is not None:
            await self._announce(history.hashes[:pages], session, engine)
        if not pages or self._residency.on_device(session.id, boot_id):
            return []
        try:
            found = await self.stage(session.id, history.hashes[:pages], engine)
        except EngineUnreachable as error:
            return [f"prefetch failed: {error}"]
        self._residency.placed(session.id, boot_id)
        logger.info("staged %d of %d pages of %s", found.pages, pages, session.id)
        return [found.reason] if found.reason else []

    async def renew_shared(
        self, session: Session, history: History, engine: Engine, hashes: Sequence[str]
    ) -> None:
        """Pages of the new prompt that are on the device may be another session's, and may have
        expired from the store when that was deleted: then this turn stores them again."""
        new = hashes[history.boundary // engine.record.page_size :]
        if not new:
            return
        try:
            expired = await engine.renew(new, timeout=self._settings.settle_timeout)
        except EngineUnreachable as error:
            logger.warning("shared pages of %s not renewed: %s", session.id, error)
            return
        if expired:
            logger.info("%d expired objects of %s are stored again", expired, session.id)

    async def _announce(self, hashes: Sequence[str], session: Session, placed: Engine) -> None:
        """To the engines that a router may choose instead of the one where it is staged."""
        for engine in await self._pool.usable(session.body.fingerprint_id):
            if engine is not placed:
                try:
                    await engine.announce(hashes, timeout=self._settings.prefetch_timeout)
                except EngineUnreachable as error:
                    logger.warning("%s is not announced: %s", session.id, error)
