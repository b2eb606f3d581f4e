"""Whether a key still stands, for what goes on after its request was let in.

    guard ─► request ─► turn, events of a session, … ─► ended where it waits, once its key is over

A key that is revoked or expires, or whose tenant is deleted, ends the streams that were opened with
it, within as many seconds as other requests with it are still believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from agent_runtime.errors import Unauthorized
from state_store.errors import StoreError

logger = logging.getLogger(__name__)

_Some = TypeVar("_Some")


class Standing:
    """Of one key, for all that goes on with it here."""

    def __init__(self) -> None:
        self.users = 0
        self._is_over = False
        self._limits: set[asyncio.Timeout] = set()

    def end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time())

    async def wait(self, wanted: Awaitable[_Some]) -> _Some:
        """Raises Unauthorized as soon as the key is over, and cancels what was waited for."""
        try:
            async with asyncio.timeout(0 if self._is_over else None) as limit:
                self._limits.add(limit)
                try:
                    return await wanted
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise  # one of its own
            raise Unauthorized(
                "the API key was revoked or has expired meanwhile, or its tenant was deleted. What "
                "went on was ended; what was committed before stays."
            ) from None


class Standings:
    """Of all keys with which something goes on in this process: one look-up for each, however much
    that is."""

    def __init__(self, stands: Callable[[str], Awaitable[bool]], *, every: float) -> None:
        """stands: looks a key up by its text; every: seconds between two look-ups"""
        self._stands = stands
        self._every = every
        self._held: dict[str, Standing] = {}
        self._looking: asyncio.Task[None] | None = None

    def serve_with(self, text: str) -> None:
        """For the rest of this request: it came with this key."""
        _current.set((self, text))

    @contextlib.contextmanager
    def held(self, text: str) -> Iterator[Standing]:
        standing = self._held.setdefault(text, Standing())
        standing.users += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            yield standing
        finally:
            standing.users -= 1
            if not standing.users:
                del self._held[text]
            if not self._held and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            for text, standing in list(self._held.items()):
                try:
                    if not await self._stands(text):
                        standing.end()
                except StoreError as error:
                    # Nobody can revoke a key meanwhile, either.
                    logger.warning("whether an API key still stands is not known: %s", error)


_current: ContextVar[tuple[Standings, str] | None] = ContextVar("standing", default=None)


async def while_admitted(events: AsyncGenerator[_Some]) -> AsyncGenerator[_Some]:
    """The same events, for as long as the key of the request stands. Raises Unauthorized, and
    closes `events`, when it does not any more."""
    current = _current.get()
    async with contextlib.aclosing(events):
        if current is None:
            async for event in events:
                yield event
            return
        standings, text = current
        with standings.held(text) as standing:
            while True:
                try:
                    event = await standing.wait(anext(events))
                except StopAsyncIteration:
                    return
                yield event


def outlive_key() -> None:
    """For the rest of this task: it was accepted, and goes on whatever becomes of the key."""
    _current.set(None)
