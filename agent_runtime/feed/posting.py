"""Telling of what this process does to sessions. Nothing waits for that: it is sent on in the
background, and dropped while the store is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable

from agent_runtime.errors import Cancelled, TorporError
from agent_runtime.http.status import problem_of
from agent_runtime.wire.events import Progress, TurnEvent
from agent_runtime.wire.residency import Resumed
from agent_runtime.wire.session_events import (
    Deleted,
    ResidencyChanged,
    SessionEvent,
    TurnBegan,
    TurnCancelled,
    TurnCommitted,
    TurnFailed,
    WasResumed,
    Working,
    name_of,
)
from agent_runtime.wire.turns import TurnResult
from engine.errors import EngineError
from state_store.errors import StoreError
from state_store.feeds import Post
from state_store.records import Session
from state_store.store import StateStore

logger = logging.getLogger(__name__)

_WAITING = 4096  # posts; more are dropped while the store is slow
_AT_ONCE = 256  # posts in one round trip
_LAST_WORDS = 2.0  # seconds for what still waits when the process ends


class Feed:
    """Posts of this process, in order."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._waiting: deque[Post] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._told_of_loss = False
        self.posted: Callable[[set[str]], None] = lambda _: None
        """Called with the sessions of which posts of this process can be read now."""

    def tell(self, session_id: str, event: SessionEvent) -> None:
        if len(self._waiting) >= _WAITING:
            self._lost("too many wait")
            return
        value = f"{name_of(event)}\n{event.model_dump_json()}".encode()
        self._waiting.append(Post(session_id, value, is_last=isinstance(event, Deleted)))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    def moved(self, session_id: str, on_device: bool) -> None:
        """A session has come to a device, or left it."""
        residency = ResidencyChanged(residency="device" if on_device else "stored")
        self.tell(session_id, residency)

    def working(self, session_id: str, turn: str | None, progress: Progress) -> None:
        self.tell(session_id, Working(turn=turn, **progress.model_dump()))

    def resumed(self, done: Resumed) -> None:
        self.tell(
            done.session_id,
            WasResumed(
                head=done.head,
                tokens=done.tokens,
                restorable_tokens=done.restorable_tokens,
                reason=done.reason,
            ),
        )

    async def turn(
        self, session: Session, turn_id: str, events: AsyncGenerator[TurnEvent]
    ) -> AsyncGenerator[TurnEvent]:
        """The events of a turn, which is told of."""
        self.tell(session.id, TurnBegan(turn=turn_id, head=session.head))
        is_over = False
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, Progress):
                        self.working(session.id, turn_id, event)
                    elif isinstance(event, TurnResult):
                        is_over = True
                        self._ended(turn_id, event)
                    yield event
        except (TorporError, EngineError, StoreError) as error:
            if isinstance(error, Cancelled):
                self.tell(session.id, TurnCancelled(turn=turn_id))
            else:
                self.tell(session.id, TurnFailed(turn=turn_id, code=problem_of(error).code))
            raise
        except (GeneratorExit, asyncio.CancelledError):  # its client has gone
            if not is_over:
                await self._left(session, turn_id)
            raise

    async def close(self) -> None:
        """What still waits is sent, if that is quick."""
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=_LAST_WORDS)
            self._sending.cancel()
            await asyncio.wait({self._sending})

    async def _left(self, session: Session, turn_id: str) -> None:
        """Nobody waits for a turn any more, which still holds its session: so what the head is now
        says what it came to."""
        try:
            async with asyncio.timeout(_LAST_WORDS):
                head = (await self._store.session(session.id)).head
        except (StoreError, TimeoutError) as error:
            self._lost(f"what {turn_id} came to is not known: {error}")
            return
        if head is None or head == session.head:
            self.tell(session.id, TurnCancelled(turn=turn_id))
            return
        committed = TurnCommitted(
            turn=turn_id, snapshot=head, finish_reason=None, usage=None, durable=None
        )
        self.tell(session.id, committed)

    def _ended(self, turn_id: str, result: TurnResult) -> None:
        if result.snapshot is None:
            self.tell(result.session_id, TurnFailed(turn=turn_id, code="not_committed"))
            return
        committed = TurnCommitted(
            turn=turn_id,
            snapshot=result.snapshot,
            finish_reason=result.finish_reason,
            usage=result.usage,
            durable=result.durable,
        )
        self.tell(result.session_id, committed)

    async def _send(self) -> None:
        while self._waiting:
            posts = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
            try:
                await self._store.feeds.publish(posts)
            except StoreError as error:
                self._lost(str(error))
            else:
                self._told_of_loss = False
                self.posted({post.session_id for post in posts})

    def _lost(self, why: str) -> None:
        if not self._told_of_loss:
            logger.warning("events of sessions are not told: %s", why)
            self._told_of_loss = True
