"""Keeping turns that the store cannot take, until it is back. See `outage.py`."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from agent_runtime.errors import KeptTurnsRefused, TorporError
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.answers import meta_of
from agent_runtime.turns.idempotency import Answered, Claims, turn_of
from agent_runtime.turns.outage import KeptTurn, Outage, Standing
from agent_runtime.turns.writing import Writers
from agent_runtime.wire.turns import TurnRequest, TurnResult
from engine.errors import EngineError
from state_store.errors import NotFound, StoreError, StoreRefused, StoreUnavailable

logger = logging.getLogger(__name__)


class Keeping:
    """Tries again in the background, a task per session that has kept turns."""

    def __init__(
        self, outage: Outage, writers: Writers, claims: Claims, settings: RuntimeSettings
    ) -> None:
        self._claims = claims
        self._outage = outage
        self._writers = writers
        self._settings = settings
        self._answers: dict[str, dict[str, Answered]] = {}
        self._catching_up: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    async def close(self) -> None:
        """Turns that wait for the store end here: they lived in this process only."""
        self._is_closed = True
        for task in self._catching_up.values():
            task.cancel()
        await asyncio.gather(*self._catching_up.values(), return_exceptions=True)

    def keep(
        self,
        before: Standing,
        new_ids: list[int],
        result: TurnResult,
        request: TurnRequest,
        error: StoreUnavailable,
        key: str | None,
        said: dict[str, Any] | None = None,
    ) -> TurnResult:
        """Keep a turn that cannot be committed now, and commit it when the store is back.

        request: as it came; said: its messages as the snapshot is to keep them, if it is
        """
        session_id = before.session.id
        if not self._outage.has_room(len(new_ids)):
            logger.error("turn of %s is lost: %s", session_id, error)
            why = f"lost: no memory is left to keep it until the store is back ({error})"
            return result.model_copy(update={"not_durable_because": why})
        if self._outage.kept(session_id) and not self._outage.is_current(before):
            logger.error("turn of %s is lost: another one was answered meanwhile", session_id)
            why = "lost: another turn was answered meanwhile, behind which this one was not said"
            return result.model_copy(update={"not_durable_because": why})
        meta = meta_of(key, request, result) | (said or {})
        prompt_tokens, files = result.usage.prompt_tokens, request.workspace
        turn = KeptTurn(new_ids, prompt_tokens, request.durability, meta, files)
        self._outage.keep(before, turn)
        logger.error("turn of %s is kept in memory: %s", session_id, error)
        running = self._catching_up.get(session_id)
        if (running is None or running.done()) and not self._is_closed:
            task = asyncio.create_task(self._catch_up(session_id))
            self._catching_up[session_id] = task
            task.add_done_callback(lambda ended: self._forget(session_id, ended))
        why = f"not committed: kept in memory until the store is back ({error})"
        kept = result.model_copy(update={"kept": True, "not_durable_because": why})
        if key is not None:
            self._answers.setdefault(session_id, {})[key] = Answered(key, request, kept)
        return kept

    def answer(self, session_id: str, request: TurnRequest, key: str | None) -> TurnResult | None:
        """That was given to a turn with this key, which is still kept. Raises KeyReused."""
        found = None if key is None else self._answers.get(session_id, {}).get(key)
        return None if found is None else found.again(request)

    def _forget(self, session_id: str, ended: asyncio.Task[None]) -> None:
        if self._catching_up.get(session_id) is ended:
            del self._catching_up[session_id]

    async def _catch_up(self, session_id: str) -> None:
        # More may be kept while keys are claimed.
        while self._outage.kept(session_id) or session_id in self._answers:
            await self._until_caught_up(session_id)
            await self._claim(session_id)

    async def _claim(self, session_id: str) -> None:
        """The keys of turns that were kept, as the first request with each would have. Until a key
        is claimed, a retry is told here that it is none."""
        answered = self._answers.get(session_id, {})
        for key, turn in list(answered.items()):
            try:
                await self._claims.claim(key, turn_of(session_id), turn.request)
            except (StoreUnavailable, StoreRefused) as error:
                logger.warning("the key of a turn of %s is not claimed: %s", session_id, error)
                await asyncio.sleep(self._settings.catch_up_interval)
                return
            except (StoreError, TorporError) as error:  # another's, or the tenant is gone
                logger.error("the key of a turn of %s is dropped: %s", session_id, error)
            del answered[key]
        if not answered:  # none was kept meanwhile
            self._answers.pop(session_id, None)

    async def _until_caught_up(self, session_id: str) -> None:
        while self._outage.kept(session_id):
            await asyncio.sleep(self._settings.catch_up_interval)
            try:
                async with self._writers.writing(session_id) as (session, lease):
                    await self._outage.catch_up(session, lease)
            except KeptTurnsRefused as error:
                self._outage.refused[session_id] = error  # the next turn ends with it
                logger.error("%s", error)
            except NotFound as error:
                self._outage.drop(session_id)
                logger.error("kept turns of %s are dropped: %s", session_id, error)
            except (StoreError, TorporError, EngineError) as error:
                logger.warning("kept turns of %s are not committed: %s", session_id, error)
