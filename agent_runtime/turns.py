"""A turn: append messages, generate, commit one snapshot.

lease ── place ── history ── delta ── slot ── ready? ── generate ── settle ── commit
                                       │       │          └─ if the engine dies, another goes on
                                       │       │  prefetch if the engine may not hold the head
                                       │       └─ what cannot be restored is recomputed, and the
                                       │          answer says so
                                       └─ waits while others run (`scheduling/`)
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator

from agent_runtime.attempt import Attempts
from agent_runtime.chat import ChatFormat
from agent_runtime.committing import commit_turn
from agent_runtime.errors import HeadMoved, NoModel
from agent_runtime.events import Text, TurnEvent
from agent_runtime.generation import Generation
from agent_runtime.histories import Histories, History
from agent_runtime.keeping import Keeping
from agent_runtime.models import Timing, TurnRequest, TurnResult
from agent_runtime.outage import Outage, Standing
from agent_runtime.placing import Placement, Placing
from agent_runtime.prompting import prompt_delta
from agent_runtime.readiness import Readiness
from agent_runtime.residency import Residency
from agent_runtime.results import result_of
from agent_runtime.scheduling.admission import Admission, Slot
from agent_runtime.scheduling.tool_times import REPLY
from agent_runtime.settings import RuntimeSettings
from agent_runtime.stateless import Stateless
from agent_runtime.writing import Writers
from engine.pool import Engine, EnginePool
from state_store.errors import StoreUnavailable
from state_store.records import Lease, Session
from state_store.store import StateStore

logger = logging.getLogger(__name__)


class Turns:
    """Runs turns on any engine that fits the session. Stateless but for caches."""

    def __init__(
        self,
        store: StateStore,
        pool: EnginePool,
        chat: ChatFormat | None,
        residency: Residency,
        settings: RuntimeSettings,
        stateless: Stateless,
    ) -> None:
        """chat: None if only sessions without state are served"""
        self.stateless = stateless
        self._store = store
        self.placing = Placing(store, pool, residency)
        self._pool = pool
        self._chat_format = chat
        self._residency = residency
        self._settings = settings
        self._histories = Histories(store)
        self.readiness = Readiness(store, pool, residency, settings)
        self.admission = Admission(settings, residency, self._prefetch)
        writers = Writers(store, residency, settings)
        self.writing = writers.writing
        self.outage = Outage(store, settings, self._histories.hold)
        self._keeping = Keeping(self.outage, writers, settings)
        self._without_store: dict[str, asyncio.Lock] = {}

    async def run(self, session_id: str, request: TurnRequest) -> AsyncGenerator[TurnEvent]:
        """Yield text as it is generated, then one TurnResult after the commit.

        While the store is gone, a session that this process has just served goes on: see
        `outage.py`.

        Raises NotFound, CannotStore, LeaseHeld (another writer), HeadMoved (not `expected_head`),
        BadRequest, ContextFull, Overloaded, NoEngine, EngineUnreachable, EngineRefused,
        KeptTurnsRefused. After any of them the session's head is what it was.
        """
        began = False
        try:
            async with contextlib.aclosing(self._run(session_id, request)) as events:
                async for event in events:
                    began = True
                    yield event
        except StoreUnavailable as error:
            if began or self.outage.standing(session_id) is None:
                raise
            logger.warning("%s goes on without the store: %s", session_id, error)
            without = self._run_without_store(session_id, request, error)
            async with contextlib.aclosing(without) as events:
                async for event in events:
                    yield event

    async def _run(self, session_id: str, request: TurnRequest) -> AsyncGenerator[TurnEvent]:
        async with self.writing(session_id) as (session, lease):
            if session_id in self.outage.refused:
                raise self.outage.refused.pop(session_id)
            session = await self.outage.catch_up(session, lease)
            if request.expected_head not in (None, session.head or ""):
                raise HeadMoved(
                    f"head of {session_id} is {session.head or 'empty'}, not "
                    f"{request.expected_head or 'empty'}; nothing was generated. Read the session "
                    "again and decide, or fork it where you were."
                )
            if await self.stateless.holds(session):
                events = self.stateless.turn(session, lease, request)
                async with contextlib.aclosing(events):
                    async for event in events:
                        yield event if isinstance(event, TurnResult) else Text(text=event)
                return
            started = time.perf_counter()
            generation = Generation(await self.placing.place(session))
            with generation.counted():
                engine = generation.engine
                history = await self.history(session.head, session, engine)
                salt = (await self._store.tenant(session.body.tenant)).salt
                before = Standing(session, salt, engine, history)
                delta = prompt_delta(self._chat, session, history, request, engine)
                async with self._slot(before, delta, request) as slot:
                    generation.reasons += await self.readiness.make_ready(session, history, engine)
                    asked = before.after(delta).history
                    await self.readiness.renew_shared(session, history, engine, asked.hashes)
                    pieces = self._generate(before, asked, request, generation)
                    async with contextlib.aclosing(pieces):
                        async for text in pieces:
                            yield text
                    generated_at = time.perf_counter()
                    before = dataclasses.replace(before, engine=generation.engine)
                    result = await self._commit(before, lease, delta, generation, request)
                    _leave(slot, result)
            timing = Timing(
                ttft_s=(generation.first_token_at or generated_at) - started,
                generate_s=generated_at - started,
                commit_s=time.perf_counter() - generated_at,
                queued_s=slot.queued,
            )
        # Only now: who has the result may start the next turn, and the lease is free.
        yield result.model_copy(update={"timing": timing})

    async def history(self, snapshot_id: str | None, session: Session, engine: Engine) -> History:
        """The token history of one of the session's snapshots."""
        record = engine.record
        tenant = await self._store.tenant(session.body.tenant)
        return await self._histories.of(
            snapshot_id,
            page_size=record.page_size,
            salt=tenant.salt,
            bigram=record.fingerprint.bigram,
        )

    @property
    def _chat(self) -> ChatFormat:
        if self._chat_format is None:
            raise NoModel(
                "this runtime serves only sessions without state: it was started without --model, "
                "and knows no tokenizer. The session is kept; ask a runtime that has the model."
            )
        return self._chat_format

    async def close(self) -> None:
        """Turns that wait for the store end here: they lived in this process only."""
        await self.admission.close()
        await self._keeping.close()
        await self.readiness.close()

    def _slot(
        self, before: Standing, delta: list[int], request: TurnRequest
    ) -> contextlib.AbstractAsyncContextManager[Slot]:
        return self.admission.slot(
            before.session.id,
            before.session.body.tenant,
            before.engine,
            known=len(before.history.tokens),
            added=len(delta) + request.max_tokens,
        )

    async def _prefetch(self, session_id: str, engine: Engine) -> None:
        """Stage a session's head before its turn comes. Raises NotFound, EngineUnreachable."""
        session = await self._store.session(session_id)
        history = await self.history(session.head, session, engine)
        pages = history.boundary // engine.record.page_size
        if pages:
            await self.readiness.stage(session_id, history.hashes[:pages], engine)

    async def _generate(
        self, before: Standing, asked: History, request: TurnRequest, generation: Generation
    ) -> AsyncGenerator[Text]:
        """asked: the history with the new prompt."""

        async def make_ready(engine: Engine) -> list[str]:
            try:
                reasons = await self.readiness.make_ready(before.session, before.history, engine)
                await self.readiness.renew_shared(
                    before.session, before.history, engine, asked.hashes
                )
            except StoreUnavailable as error:
                return [str(error)]
            return reasons

        attempts = Attempts(self._pool, self.placing, self._residency, self._chat)
        pieces = attempts.text(
            before.session, asked, request, generation, salt=before.salt, make_ready=make_ready
        )
        async with contextlib.aclosing(pieces):
            async for text in pieces:
                yield Text(text=text)

    async def _commit(
        self,
        before: Standing,
        lease: Lease,
        delta: list[int],
        generation: Generation,
        request: TurnRequest,
    ) -> TurnResult:
        session, engine, record = before.session, before.engine, before.engine.record
        new_ids = [*delta, *generation.ids]
        after = before.after(new_ids)
        result = result_of(self._chat, before, delta, generation, request)
        try:
            commit, shortfall = await commit_turn(
                self._store,
                engine,
                session,
                lease,
                before.history,
                new_ids,
                after.history.hashes,
                prompt_tokens=result.usage.prompt_tokens,
                durability=request.durability,
                settle_timeout=self._settings.settle_timeout,
                boundary_interval=self._settings.boundary_interval,
            )
        except StoreUnavailable as error:
            return self._keeping.keep(before, new_ids, result, request, error)
        snapshot = commit.snapshot
        history = History(after.history.tokens, after.history.hashes, snapshot.boundary)
        self._histories.hold(snapshot.id, history)
        self.outage.remember(
            dataclasses.replace(
                before, session=dataclasses.replace(session, head=snapshot.id), history=history
            )
        )
        self._residency.placed(session.id, record.boot_id)
        written = record.ranks * (
            len(snapshot.page_chain) * record.kv_object_bytes
            + len(snapshot.boundaries(record.page_size)) * record.state_object_bytes
        )
        self._residency.wrote(session.id, written)
        return result.model_copy(
            update={
                "snapshot": snapshot.id,
                "boundary": snapshot.boundary,
                "durable": commit.durability,
                "not_durable_because": commit.shortfall or shortfall,
                "bytes_written": written,
                "caught_up": self.outage.caught_up.pop(session.id, 0),
            }
        )

    async def _run_without_store(
        self, session_id: str, request: TurnRequest, why: StoreUnavailable
    ) -> AsyncGenerator[TurnEvent]:
        """On the engine and the history that are known here. One turn at a time."""
        async with self._without_store.setdefault(session_id, asyncio.Lock()):
            before = self.outage.standing(session_id)
            if before is None:  # refused meanwhile
                raise why
            session, history = before.session, before.history
            if request.expected_head not in (None, session.head or ""):
                raise HeadMoved(
                    f"head of {session_id} is {session.head or 'empty'}, not "
                    f"{request.expected_head or 'empty'}; nothing was generated."
                )
            delta = prompt_delta(self._chat, session, history, request, before.engine)
            if not self.outage.has_room(len(delta) + request.max_tokens):
                raise why
            why_there = "it holds the session, and nothing is known of others without the store"
            generation = Generation(Placement(before.engine, why_there))
            asked = before.after(delta).history
            with generation.counted():
                async with self._slot(before, delta, request) as slot:
                    pieces = self._generate(before, asked, request, generation)
                    async with contextlib.aclosing(pieces):
                        async for text in pieces:
                            yield text
                    before = dataclasses.replace(before, engine=generation.engine)
                    result = result_of(self._chat, before, delta, generation, request)
                    _leave(slot, result)
            yield self._keeping.keep(before, [*delta, *generation.ids], result, request, why)


def _leave(slot: Slot, result: TurnResult) -> None:
    """What the scheduler learns from a turn: what the session has, and what it waits for now."""
    usage = result.usage
    slot.ended(
        tokens=usage.prompt_tokens + usage.completion_tokens,
        tool="+".join(sorted({call.name for call in result.tool_calls})) or REPLY,
        reprefilled=usage.reused_tokens < usage.boundary_tokens,
    )
