"""One writer per session: its lease, held and renewed for as long as somebody writes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from agent_runtime.scheduling.residency import Residency
from agent_runtime.settings import RuntimeSettings
from state_store.errors import StoreError, StoreUnavailable
from state_store.records import Lease, Session
from state_store.store import StateStore

logger = logging.getLogger(__name__)


class Writers:
    """Leases of the sessions that this process writes to.

    owner: this process, as leases name it
    """

    def __init__(self, store: StateStore, residency: Residency, settings: RuntimeSettings) -> None:
        self._store = store
        self._residency = residency
        self._settings = settings
        self._releases: dict[asyncio.Task[None], str] = {}  # of which session
        self.owner = f"runtime-{uuid.uuid4().hex[:12]}"

    @contextlib.asynccontextmanager
    async def writing(
        self, session_id: str, *, at_last: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[tuple[Session, Lease]]:
        """Hold the session's lease, renewed in the background, for the length of the block.

        at_last: done before it is given back, however the block ends
        Raises VaultLocked, LeaseHeld.
        """
        known = self._residency.written_since(session_id)
        servers = known or await self._store.watch("fsync")
        lease, record = await self._acquired(session_id)
        self._residency.writing_to(session_id, servers)
        renewing = asyncio.create_task(self._renew(lease))
        try:
            yield await self._store.opened(session_id, record), lease
        finally:
            renewing.cancel()
            await asyncio.shield(
                self._releasing(session_id, self._release(lease, renewing, at_last))
            )

    async def given_back(self, session_id: str) -> None:
        """Until no lease of the session is still being given back here."""
        releases = [task for task, session in self._releases.items() if session == session_id]
        await asyncio.gather(*releases, return_exceptions=True)

    async def close(self) -> None:
        """Once nothing is written any more: until every lease is given back."""
        await asyncio.gather(*self._releases, return_exceptions=True)

    async def _acquired(self, session_id: str) -> tuple[Lease, list[bytes | None]]:
        """The lease and the session's record; who is cancelled while the reply is on its way has
        not got it, and it is given back."""
        acquiring = asyncio.create_task(
            self._store.acquire_record(session_id, ttl=self._settings.lease_ttl, owner=self.owner)
        )
        try:
            return await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            self._releasing(session_id, self._undo(acquiring))
            raise

    async def _undo(self, acquiring: asyncio.Task[tuple[Lease, list[bytes | None]]]) -> None:
        with contextlib.suppress(StoreError):  # it was not acquired, or expires by itself
            lease, _ = await acquiring
            await self._store.release(lease)

    def _releasing(self, session_id: str, release: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Not awaited by the request alone: when its client has gone, every wait of it is cancelled
        at once, and the lease would be held until it expires."""
        releasing = asyncio.create_task(release)
        self._releases[releasing] = session_id
        releasing.add_done_callback(self._releases.pop)
        return releasing

    async def _release(
        self,
        lease: Lease,
        renewing: asyncio.Task[None],
        at_last: Callable[[], Awaitable[None]] | None,
    ) -> None:
        await asyncio.wait([renewing])
        with contextlib.suppress(StoreUnavailable):  # then it expires by itself
            try:
                if at_last is not None:
                    await at_last()
            finally:
                await self._store.release(lease)

    async def _renew(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_ttl / 3)
            try:
                await self._store.renew(lease, ttl=self._settings.lease_ttl)
            except Exception as error:  # the commit is fenced: it will refuse a lost lease
                logger.warning("lease of %s not renewed: %s", lease.session_id, error)
