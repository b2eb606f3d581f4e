"""Having an engine ready for a turn: the session's head staged, and what is shared kept.

head            |p|p|p|s            staged, unless the device has it
marked prompt   |p|p|s|p|p|         so is a marked place that another session has stored
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from agent_runtime.messages.histories import History
from agent_runtime.scheduling.residency import Residency
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.formats import why_unusable
from agent_runtime.turns.outage import Standing
from agent_runtime.turns.staging import Staging
from engine.errors import EngineUnreachable
from engine.pool import Engine, EnginePool
from engine.replies import Prefetch
from state_store.forms import FormName
from state_store.records import Session
from state_store.store import StateStore

logger = logging.getLogger(__name__)


class Readiness:
    """Prefetches heads into engines, and renews what a new prompt shares with other sessions."""

    def __init__(
        self, store: StateStore, pool: EnginePool, residency: Residency, settings: RuntimeSettings
    ) -> None:
        self._store = store
        self._pool = pool
        self._residency = residency
        self._settings = settings
        self._staging = Staging(store, timeout=settings.prefetch_timeout)

    async def close(self) -> None:
        await self._staging.close()

    async def stage(self, session: Session, hashes: Sequence[str], engine: Engine) -> Prefetch:
        """See `Staging.stage`."""
        return await self._staging.stage(session, hashes, engine)

    def bring_files_back(self, session: Session) -> None:
        """See `Staging.bring_files_back`."""
        self._staging.bring_files_back(session)

    async def make_ready(
        self, before: Standing, prompt: History, engine: Engine, marks: Sequence[int]
    ) -> list[str]:
        """Have the engine stage the head unless it holds it, and what the prompt shares with other
        sessions up to a mark; reasons why not all of the head can be.

        prompt: all of it; marks: token counts, see `marks.py`. Raises StoreUnavailable.
        """
        session, history = before.session, before.history
        reasons = await self._stage_head(session, history, engine)
        await self._stage_marked(session, history, engine, prompt.hashes, marks)
        await self._renew_shared(session, history, engine, prompt.hashes)
        return reasons

    async def _stage_head(self, session: Session, history: History, engine: Engine) -> list[str]:
        if why := await why_unusable(self._store, history, engine.record.fingerprint):
            return [why]
        boot_id = engine.record.boot_id
        pages = history.boundary // engine.record.page_size
        if pages and self._pool.router is not None:
            await self._announce(history.hashes[:pages], session, engine)
        if not pages or self._residency.on_device(session.id, boot_id):
            return []
        try:
            found = await self.stage(session, history.hashes[:pages], engine)
        except EngineUnreachable as error:
            return [f"prefetch failed: {error}"]
        self._residency.placed(session.id, boot_id)
        logger.info("staged %d of %d pages of %s", found.pages, pages, session.id)
        return [found.reason] if found.reason else []

    async def _stage_marked(
        self,
        session: Session,
        history: History,
        engine: Engine,
        prompt: Sequence[str],
        marks: Sequence[int],
    ) -> None:
        """The last marked place that some session of the tenant has stored, unless the device has
        one that is as far."""
        page_size = engine.record.page_size
        known = history.boundary // page_size
        pages = max(marks, default=0) // page_size
        if pages <= known:
            return
        chain = prompt[:pages]
        try:
            there = await engine.where(
                chain,
                name=session.id,
                timeout=self._settings.prefetch_timeout,
                form=FormName.of(session.body),
                since=known,
            )
            stored = max(there.stored.states, default=0)
            held = max(*there.device.states, *there.staged.states, known, 0)
            if stored > held:
                found = await self.stage(session, chain[:stored], engine)
                logger.info("staged %d marked pages for %s", found.pages, session.id)
        except EngineUnreachable as error:
            logger.warning("marked pages of %s not staged: %s", session.id, error)

    async def _renew_shared(
        self, session: Session, history: History, engine: Engine, hashes: Sequence[str]
    ) -> None:
        """Pages of the new prompt that are on the device may be another session's, and may have
        expired from the store when that was deleted: then this turn stores them again."""
        new = hashes[history.boundary // engine.record.page_size :]
        if not new:
            return
        try:
            expired = await engine.renew(
                new, timeout=self._settings.settle_timeout, form=FormName.of(session.body)
            )
        except EngineUnreachable as error:
            logger.warning("shared pages of %s not renewed: %s", session.id, error)
            return
        if expired:
            logger.info("%d expired objects of %s are stored again", expired, session.id)

    async def _announce(self, hashes: Sequence[str], session: Session, placed: Engine) -> None:
        """To the engines that a router may choose instead of the one where it is staged."""
        form, tenant = FormName.of(session.body), session.body.tenant
        master_key = await self._store.master_key_id(tenant) if session.body.encrypted else None
        for engine in await self._pool.usable(placed.record.fingerprint.id, master_key=master_key):
            if engine is not placed:
                try:
                    await engine.announce(
                        hashes, timeout=self._settings.prefetch_timeout, form=form
                    )
                except EngineUnreachable as error:
                    logger.warning("%s is not announced: %s", session.id, error)
