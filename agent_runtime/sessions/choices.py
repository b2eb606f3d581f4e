"""Several answers to one conversation.

    history ── prompt ─┬─ answer 0     a turn as any other
                       ├─ answer 1     in a fork at the end of the prompt, which is computed once
                       └─ answer 2

Each is in a session of its own, and a conversation that goes on from one is found there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping

from agent_runtime.errors import Unavailable
from agent_runtime.sessions.conversations import Conversations, turn_of
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.turns.idempotency import part_of
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.events import TurnEvent
from agent_runtime.wire.sessions import Forked, ForkRequest
from agent_runtime.wire.turns import ConversationRequest, TurnResult
from state_store.errors import StoreError
from state_store.store import StateStore

logger = logging.getLogger(__name__)


class Choices:
    """Answers conversations, as often as is asked for."""

    def __init__(
        self, store: StateStore, conversations: Conversations, sessions: Sessions, turns: Turns
    ) -> None:
        self._store = store
        self._conversations = conversations
        self._sessions = sessions
        self._turns = turns

    async def run(
        self, request: ConversationRequest, count: int, *, key: str | None = None
    ) -> AsyncGenerator[tuple[int, TurnEvent]]:
        """Events of `count` answers, each with its number: the first to its end, then all others
        at once. With a seed, each is drawn with one of its own: `seed` + its number.

        key: of idempotency, as for one answer

        Raises what `Conversations.run` does, for any of them. Those that are answered by then are
        kept; Unavailable if the first could not be committed, and there is nothing to fork.
        """
        first: TurnResult | None = None
        events = self._conversations.run(request, key=key)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, TurnResult):
                    first = event
                yield 0, event
        assert first is not None, "a conversation ends with its result"
        others = {n: self._other(request, first, n, key) for n in range(1, count)}
        async with contextlib.aclosing(_merged(others)) as merged:
            async for numbered in merged:
                yield numbered

    async def _other(
        self, request: ConversationRequest, first: TurnResult, number: int, key: str | None
    ) -> AsyncGenerator[TurnEvent]:
        if first.snapshot is None:
            raise Unavailable(
                f"the first answer is not committed ({first.not_durable_because}), and no other "
                "can branch off where it began. Ask again for all of them."
            )
        if request.seed is not None:
            request = request.model_copy(update={"seed": request.seed + number})
        own_key = None if key is None else part_of(key, str(number))
        if await self._turns.stateless.holds(await self._store.session(first.session_id)):
            events = self._conversations.run(request, key=own_key)
        else:
            events = self._in_fork(request, first, own_key)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def _in_fork(
        self, request: ConversationRequest, first: TurnResult, key: str | None
    ) -> AsyncGenerator[TurnEvent]:
        place = ForkRequest(tokens=first.usage.prompt_tokens, labels=request.labels)
        fork = await self._sessions.fork(
            first.session_id, place, key=None if key is None else part_of(key, "fork")
        )
        await self._turns.unfinished.begin(fork.id, fork.head)
        turn = turn_of(request, (), head=fork.head or "")
        ended = False
        # A retry after a failure is given another fork, and its turn is another.
        turn_key = None if key is None else part_of(key, "turn", fork.id)
        try:
            events = self._turns.run(fork.id, turn, key=turn_key)
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, TurnResult):
                        ended = True
                        await self._conversations.remember(request, event)
                    yield event
        finally:
            if ended:
                await self._turns.unfinished.end(fork.id)
            else:
                await self._discard(fork, key)

    async def _discard(self, fork: Forked, key: str | None) -> None:
        if key is None:
            await self._conversations.discard(fork.id)
            return
        try:
            await self._turns.claims.drop(part_of(key, "fork"))  # so that a retry makes another
        except StoreError as error:
            logger.warning("%s is left to a retry: %s", fork.id, error)
            return
        await self._conversations.discard(fork.id, head=fork.head or "")


async def _merged(
    streams: Mapping[int, AsyncGenerator[TurnEvent]],
) -> AsyncGenerator[tuple[int, TurnEvent]]:
    """The events of all streams as they come; the first error of any ends them all."""
    queue: asyncio.Queue[tuple[int, TurnEvent] | Exception | None] = asyncio.Queue(maxsize=1)

    async def pump(number: int, events: AsyncGenerator[TurnEvent]) -> None:
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    await queue.put((number, event))
        except Exception as error:  # told where the events are read
            await queue.put(error)
        else:
            await queue.put(None)

    pumps = [asyncio.create_task(pump(number, events)) for number, events in streams.items()]
    running = len(pumps)
    try:
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
