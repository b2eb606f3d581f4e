"""The turns that run in this process, and ending one from whichever runtime is asked.

The runtime that runs a turn looks now and then whether another one has been asked to cancel it:
one command for all its turns of a tenant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterator
from typing import TypeVar

from agent_runtime.errors import Cancelled, Draining, TorporError
from agent_runtime.settings import RuntimeSettings
from state_store.errors import StoreError
from state_store.records import Session
from state_store.store import StateStore

logger = logging.getLogger(__name__)

ENDING = 5.0  # seconds that turns get to end when they are told to

Event = TypeVar("Event")
Result = TypeVar("Result")


class Cancellable:
    """One turn of this process."""

    def __init__(self, session: Session, turn_id: str) -> None:
        self.session = session
        self.id = turn_id
        self._is_asked = False
        self._limits: set[asyncio.Timeout] = set()
        self._why: TorporError = Cancelled(
            f"the turn {turn_id} of {session.id} was cancelled; the session is what it was before."
        )

    def cancel(self, why: TorporError | None = None) -> None:
        """While it generates; later it is too late, and nothing happens. why: what it raises"""
        if self._is_asked:
            return
        self._why = why or self._why
        self._is_asked = True
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time())

    async def awaited(self, coming: Awaitable[Result]) -> Result:
        """What comes, unless the turn is cancelled before. Raises Cancelled, Draining."""
        try:
            async with asyncio.timeout(0 if self._is_asked else None) as limit:
                self._limits.add(limit)
                try:
                    found = await coming
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise  # one of its own
            raise self._why from None
        if self._is_asked:
            raise self._why
        return found

    async def events(self, generated: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """`generated`, until the turn is cancelled. Raises Cancelled, Draining."""
        async with contextlib.aclosing(generated):
            while True:
                try:
                    event = await self.awaited(anext(generated))
                except StopAsyncIteration:
                    return
                yield event


class Cancelling:
    """The turns of this process, and who of them is asked to end."""

    def __init__(self, store: StateStore, settings: RuntimeSettings) -> None:
        self._store = store
        self._settings = settings
        # By turn id: a session has two of them for a while when one has lost its lease.
        self._running: dict[str, Cancellable] = {}
        self._watching: asyncio.Task[None] | None = None
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self.begun = 0
        """Turns that have come and not left."""
        self.is_draining = False
        self._is_ending = False

    def drain(self) -> None:
        """Begin no more turns."""
        self.is_draining = True

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """For the whole of a turn, until it has given its session back. Raises Draining."""
        if self.is_draining:
            raise Draining(
                "this runtime is being stopped and begins no more turns; the session is unchanged. "
                "Send the turn again: another runtime takes it, or this one when it is back."
            )
        self.begun += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self.begun -= 1
            if not self.begun:
                self._is_idle.set()

    @contextlib.contextmanager
    def running(self, session: Session, turn_id: str) -> Iterator[Cancellable]:
        """For the length of the block, the turn can be cancelled."""
        turn = self._running[turn_id] = Cancellable(session, turn_id)
        if self._is_ending:
            turn.cancel(_ended(turn))
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            yield turn
        finally:
            del self._running[turn_id]

    async def until_idle(self, timeout: float) -> bool:
        """Whether no turn runs any more, before `timeout` seconds are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._is_idle.wait()
        return not self.begun

    def end_all(self) -> None:
        """The turns that run end with Draining, but those that commit already; so do those that
        have come and still wait for their session."""
        self._is_ending = True
        for turn in self._running.values():
            turn.cancel(_ended(turn))

    def end_deleted(self, session_id: str) -> None:
        """Those of this process end whose session is being deleted."""
        for turn in self._running.values():
            if turn.session.id == session_id:
                turn.cancel(
                    Cancelled(f"the turn {turn.id} was ended, because {session_id} was deleted.")
                )

    async def ask(self, session: Session, turn_id: str) -> None:
        """Ask whoever runs the turn to end it."""
        turn = self._running.get(turn_id)
        if turn is not None:
            turn.cancel()
            return
        await self._store.notes.put(
            session.body.tenant, _name(turn_id), b"", ttl=self._settings.request_ttl, happened=True
        )

    async def close(self) -> None:
        """End the turns that still run: requests that are cut off are cancelled, and not waited
        for."""
        self.drain()
        self.end_all()
        if not await self.until_idle(ENDING):
            logger.warning("%d turns do not end; their sessions stay leased", self.begun)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def _watch(self) -> None:
        """Ends when no turn runs."""
        while self._running:
            await asyncio.sleep(self._settings.cancel_interval)
            by_tenant: dict[str, list[Cancellable]] = {}
            for turn in self._running.values():
                by_tenant.setdefault(turn.session.body.tenant, []).append(turn)
            for tenant, turns in by_tenant.items():
                names = [_name(turn.id) for turn in turns]
                try:
                    notes = await self._store.notes.get(tenant, names)
                except StoreError as error:
                    logger.warning("turns cannot be cancelled from elsewhere: %s", error)
                    continue
                for turn, note in zip(turns, notes, strict=True):
                    if note is not None:
                        turn.cancel()


def _ended(turn: Cancellable) -> Draining:
    return Draining(
        f"the turn {turn.id} of {turn.session.id} was ended, because its runtime is being stopped; "
        "the session is what it was before. Send the turn again."
    )


def _name(turn_id: str) -> str:
    return f"cancel:{turn_id}"
