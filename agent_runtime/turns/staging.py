"""Having an engine stage the state of a session, from wherever its bytes are.

    stored     the engine reads Redis
    archived   the engine reads the archive, if it has it open; then the bytes go back to Redis
               behind it. Else they are brought back first, if this runtime has it open.

Whoever is staged is used again: its bytes belong in Redis until it is idle once more.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from engine.pool import Engine
from engine.replies import Prefetch
from state_store.errors import StoreError
from state_store.forms import FormName
from state_store.records import Session
from state_store.store import StateStore

logger = logging.getLogger(__name__)


class Staging:
    """Stages sessions; what it moves in the background ends with `close`."""

    def __init__(self, store: StateStore, *, timeout: float) -> None:
        """timeout: seconds that an engine may take."""
        self._store = store
        self._timeout = timeout
        self._returning: dict[str, asyncio.Task[None]] = {}  # by what is moved

    async def close(self) -> None:
        """End what is still moving: it stays where it is, and readable."""
        for task in self._returning.values():
            task.cancel()
        await asyncio.gather(*self._returning.values(), return_exceptions=True)

    async def stage(self, session: Session, hashes: Sequence[str], engine: Engine) -> Prefetch:
        """Stage the page chain `hashes` of a session, not empty, and the state at its end.
        Raises EngineUnreachable; StoreUnavailable."""
        session_id = session.id
        found = await self._prefetch(session, hashes, engine)
        if found.state and found.pages == len(hashes):
            if self._store.has_archive:
                self._behind(f"state of {session_id}", self._bring_back(session_id))
            return found
        if not await self._is_archived(session_id):
            return found
        if not self._store.has_archive:
            reason = f"{found.reason}: archived, and neither engine nor runtime has the archive"
            return dataclasses.replace(found, reason=reason)
        try:
            await self._store.bring_back(session_id, whole=False)
        except StoreError as error:
            logger.warning("%s is not brought back whole: %s", session_id, error)
            again = await self._prefetch(session, hashes, engine)
            return dataclasses.replace(again, reason=str(error) if again.reason else None)
        return await self._prefetch(session, hashes, engine)

    async def _prefetch(self, session: Session, hashes: Sequence[str], engine: Engine) -> Prefetch:
        form = FormName.of(session.body)
        return await engine.prefetch(
            hashes, timeout=self._timeout, form=form, session_id=session.id
        )

    async def _is_archived(self, session_id: str) -> bool:
        return await self._store.residency(session_id) in ("archived", "partly")

    def bring_files_back(self, session: Session) -> None:
        """Those of the head, behind the caller; until then, and if they cannot be, they are read
        where they are."""
        if self._store.has_archive:
            self._behind(f"files of {session.id}", self._bring_files_back(session))

    def _behind(self, what: str, moving: Coroutine[Any, Any, None]) -> None:
        if what in self._returning:
            moving.close()
            return
        self._returning[what] = task = asyncio.create_task(moving)
        task.add_done_callback(lambda _: self._returning.pop(what, None))

    async def _bring_back(self, session_id: str) -> None:
        try:
            if not await self._is_archived(session_id):
                return
            moved = await self._store.bring_back(session_id, whole=False)
            logger.info("%d objects of %s are back in Redis", moved.objects, session_id)
        except StoreError as error:  # the engine has what it needs; the rest is readable there
            logger.warning("%s stays archived in part: %s", session_id, error)

    async def _bring_files_back(self, session: Session) -> None:
        try:
            moved = await self._store.bring_files_back(session)
        except StoreError as error:
            logger.warning("files of %s stay archived in part: %s", session.id, error)
            return
        for problem in moved.problems:
            logger.error("files of %s: %s", session.id, problem)
