"""Responses that are made while nobody waits, and fetched later, from any runtime.

    note of the response ── queued, in_progress ──> the response's record, or failed, cancelled
    note of a sign of life ── renewed by the runtime that makes it

If that runtime dies, its sign of life expires, and whoever is asked for the response makes it: with
the same key of idempotency, so that what was generated once is not generated again. One that drains
leaves what it has not made to the others in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from agent_runtime.caller.identity import current_tenant, may_change
from agent_runtime.errors import BadRequest, Draining, StillRunning, TorporError
from agent_runtime.http.status import UNFORESEEN, problem_of
from agent_runtime.noted import noted
from agent_runtime.openai_api.responses import shown
from agent_runtime.openai_api.responses.events import Told
from agent_runtime.openai_api.responses.items import Item
from agent_runtime.openai_api.responses.requests import CreateResponse
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.cancelling import Cancelling
from agent_runtime.wire.problems import Problem
from engine.errors import EngineError
from state_store.errors import StoreError
from state_store.store import StateStore
from tools.errors import ToolsError

logger = logging.getLogger(__name__)

_RUNNING = ("queued", "in_progress")
_LOOK_AGAIN = 0.05  # seconds, while another runtime ends what it makes


class BackgroundRecord(BaseModel):
    """A response that is being made, or that came to nothing.

    response: as it is shown
    input:    items of the request
    key:      of idempotency, that it is made with and has its ids of
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    response: dict[str, Any]
    input: list[Item]
    request: CreateResponse
    key: str

    @property
    def id(self) -> str:
        return str(self.response["id"])

    @property
    def is_running(self) -> bool:
        return self.response["status"] in _RUNNING


Make = Callable[[BackgroundRecord], AsyncGenerator[Told]]
"""Makes the response, and keeps it."""


class Background:
    """Of the tenant who asks."""

    def __init__(
        self, store: StateStore, settings: RuntimeSettings, turns: Cancelling, make: Make
    ) -> None:
        """turns: of this process"""
        self._store = store
        self._settings = settings
        self._turns = turns
        self._make = make
        self._owner = uuid.uuid4().bytes
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, record: BackgroundRecord) -> None:
        """Raises VaultLocked, Draining, QuotaExceeded."""
        with self._turns.turn():
            await self._put(record, happened=False)
            await self._take(record)

    async def get(self, response_id: str) -> BackgroundRecord | None:
        """None if it was none, or has come to its end and has a record of its own. For who may only
        read, nothing is made."""
        record = await self._read(response_id)
        may_make = may_change() and not self._turns.is_draining
        if record is not None and record.is_running and may_make:
            await self._take(record)
        return record

    async def cancel(self, record: BackgroundRecord) -> None:
        """Returns when it is over, one way or the other."""
        note = _cancelled(record.id)
        ttl = self._settings.request_ttl
        await self._store.notes.put(self._tenant, note, b"", ttl=ttl, happened=True)
        while True:
            now = await self._read(record.id)
            if now is None or not now.is_running:
                return
            # As soon as nobody makes it any more, this process ends it, even while it drains.
            await self._take(now)
            await asyncio.sleep(_LOOK_AGAIN)

    async def delete(self, record: BackgroundRecord) -> None:
        """Raises BadRequest while it is being made."""
        if record.is_running:
            raise BadRequest(f"{record.id} is being made; nothing was deleted. Cancel it first.")
        await self._store.notes.delete(self._tenant, _name(record.id))

    async def close(self) -> None:
        """What is being made here ends here; another runtime makes it when it is asked for it."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _take(self, record: BackgroundRecord) -> None:
        """Make it here unless somebody does already."""
        name, ttl = _alive(record.id), self._settings.lease_ttl
        taken = await self._store.notes.put_new(
            self._tenant, name, self._owner, ttl=ttl, happened=True
        )
        if taken is None:
            task = asyncio.create_task(self._run(record))
            self._tasks[record.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(record.id, None))

    async def _run(self, record: BackgroundRecord) -> None:
        working = asyncio.create_task(self._work(record))
        try:
            while not working.done():
                if await self._is_cancelled(record):
                    await _end(working)
                    await self._put(_with(record, status="cancelled"))
                    break
                await asyncio.wait({working}, timeout=self._settings.cancel_interval)
            else:
                await working
        except StoreError as error:
            logger.error("%s is left to whoever is asked for it: %s", record.id, error)
        finally:
            await _end(working)
            with contextlib.suppress(StoreError):  # then it expires
                await self._store.notes.delete(self._tenant, _alive(record.id))

    async def _is_cancelled(self, record: BackgroundRecord) -> bool:
        """And a sign of life, if not."""
        try:
            (asked,) = await self._store.notes.get(self._tenant, [_cancelled(record.id)])
            if asked is None:
                name, ttl = _alive(record.id), self._settings.lease_ttl
                await self._store.notes.put(self._tenant, name, self._owner, ttl=ttl, happened=True)
        except StoreError as error:
            logger.warning("%s cannot be cancelled from elsewhere: %s", record.id, error)
            return False
        return asked is not None

    async def _work(self, record: BackgroundRecord) -> None:
        last: Told | None = None
        try:
            async with contextlib.aclosing(self._make(record)) as events:
                async for told in events:
                    if last is None:
                        await self._put(_with(record, status="in_progress"))
                    last = told
        except (StillRunning, Draining) as error:
            logger.warning("%s is left to whoever is asked for it: %s", record.id, error)
            return
        except (TorporError, EngineError, StoreError, ToolsError) as error:
            logger.warning("%s failed: %s", record.id, error)
            await self._put_failed(record, problem_of(error))
            return
        except Exception:  # else whoever looks at it would have it made again, for ever
            logger.exception("%s failed in a way that is not foreseen", record.id)
            await self._put_failed(record, UNFORESEEN)
            return
        assert last is not None, "a response ends with its last event"
        if last["response"]["store"]:
            await self._store.notes.delete(self._tenant, _name(record.id))
        else:  # it could not be kept with its session
            await self._put(record.model_copy(update={"response": last["response"]}))

    async def _put_failed(self, record: BackgroundRecord, problem: Problem) -> None:
        response = shown.failed(
            record.response, status=problem.status, code=problem.code, detail=problem.detail
        )
        await self._put(record.model_copy(update={"response": response}))

    async def _read(self, response_id: str) -> BackgroundRecord | None:
        (found,) = await self._store.notes.get(self._tenant, [_name(response_id)])
        return None if found is None else noted(BackgroundRecord, found, response_id)

    async def _put(self, record: BackgroundRecord, *, happened: bool = True) -> None:
        packed = record.model_dump_json(exclude_unset=True).encode()
        ttl = self._settings.response_ttl
        name = _name(record.id)
        await self._store.notes.put(self._tenant, name, packed, ttl=ttl, happened=happened)

    @property
    def _tenant(self) -> str:
        return current_tenant(self._settings.tenant)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _with(record: BackgroundRecord, *, status: str) -> BackgroundRecord:
    return record.model_copy(update={"response": record.response | {"status": status}})


def _name(response_id: str) -> str:
    return f"background:{response_id}"


def _alive(response_id: str) -> str:
    return f"background-alive:{response_id}"


def _cancelled(response_id: str) -> str:
    return f"background-cancel:{response_id}"
