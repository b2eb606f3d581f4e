"""Sessions that a runtime makes for something that may never come: what is left if it dies.

    begin ── the session is made ── its answer is committed ── end
                        └─ killed here: nobody was told of it, and `collect` deletes it

Whoever sends the request again with its key takes it up until then. One that has gone on since, in
whatever way, stays.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from pydantic import BaseModel, ConfigDict

from agent_runtime.access.identity import current_tenant
from agent_runtime.errors import HeadMoved
from agent_runtime.settings import RuntimeSettings
from state_store.errors import LeaseHeld, NotFound, StoreError
from state_store.store import StateStore

logger = logging.getLogger(__name__)

_NAME = "unfinished:"
_KEPT = 30 * 86400.0  # seconds, for stores that no runtime looks after for a while


class _Begun(BaseModel):
    """head: that the session is made with; at: seconds since 1970"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    head: str | None
    at: float


class Unfinished:
    """Those of all runtimes that share the store."""

    def __init__(self, store: StateStore, settings: RuntimeSettings) -> None:
        self._store = store
        self._settings = settings

    async def begin(self, session_id: str, head: str | None) -> None:
        """The session is about to be made, with this head."""
        await self._store.notes.put(
            current_tenant(self._settings.tenant),
            _NAME + session_id,
            _Begun(head=head, at=time.time()).model_dump_json().encode(),
            ttl=self._settings.request_ttl + _KEPT,
        )

    async def end(self, session_id: str) -> None:
        """It has what it was made for."""
        try:
            await self._store.notes.delete(
                current_tenant(self._settings.tenant), _NAME + session_id
            )
        except StoreError as error:  # `collect` sees that it has gone on
            logger.warning("%s is still taken for unfinished: %s", session_id, error)

    @contextlib.asynccontextmanager
    async def making(self, session_id: str, head: str | None) -> AsyncIterator[None]:
        """`begin`, and `end` unless it fails."""
        await self.begin(session_id, head)
        yield
        await self.end(session_id)

    async def collect(self, delete: Callable[[str, str], Awaitable[None]]) -> int:
        """Delete those that nobody can take up any more: `request_ttl` is over. How many it were.

        delete: a session, if this is its head ("" for an empty one) and nobody writes
        """
        deleted = 0
        async for tenant, name, value in self._store.notes.beginning_with(_NAME):
            begun, session_id = _Begun.model_validate_json(value), name.removeprefix(_NAME)
            if time.time() - begun.at < self._settings.request_ttl:
                continue
            try:
                await delete(session_id, begun.head or "")
                deleted += 1
            except LeaseHeld:  # looked at again the next time
                continue
            except (HeadMoved, NotFound):
                pass
            await self._store.notes.delete(tenant, name)
        return deleted
