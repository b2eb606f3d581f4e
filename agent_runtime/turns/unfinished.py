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

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import HeadMoved
from agent_runtime.settings import RuntimeSettings
from state_store.errors import LeaseHeld, NotFound, StoreError, StoreUnavailable
from state_store.store import StateStore
from state_store.unfinished import Begun

logger = logging.getLogger(__name__)


class Unfinished:
    """Those of all runtimes that share the store."""

    def __init__(self, store: StateStore, settings: RuntimeSettings) -> None:
        self._store = store
        self._settings = settings

    async def begin(self, session_id: str, head: str | None) -> None:
        """The session is about to be made, with this head."""
        tenant = current_tenant(self._settings.tenant)
        await self._store.unfinished.put(Begun(tenant, session_id, head, time.time()))

    async def end(self, session_id: str) -> None:
        """It has what it was made for."""
        try:
            await self._store.unfinished.drop(current_tenant(self._settings.tenant), session_id)
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
        async for begun in self._store.unfinished.every():
            if time.time() - begun.at < self._settings.request_ttl:
                continue
            try:
                await delete(begun.session_id, begun.head or "")
                deleted += 1
            except LeaseHeld:  # looked at again the next time
                continue
            except (HeadMoved, NotFound):
                pass
            except StoreUnavailable:
                raise
            except StoreError as error:  # of this one, and the others wait for nothing
                logger.warning("%s is left over: %s", begun.session_id, error)
                continue
            await self._store.unfinished.drop(begun.tenant, begun.session_id)
        return deleted
