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

from agent_runtime.errors import NoModel, NothingInterrupted, StillRunning
from agent_runtime.feed.posting import Feed
from agent_runtime.messages.aside import aside
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.histories import Histories, History
from agent_runtime.scheduling.admission import Admission, Slot
from agent_runtime.scheduling.residency import Residency
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.answers import Answers
from agent_runtime.turns.attempt import Attempts
from agent_runtime.turns.cancelling import Cancellable, Cancelling
from agent_runtime.turns.completing import Completing
from agent_runtime.turns.expected import require_expected, require_head
from agent_runtime.turns.generation import Generation
from agent_runtime.turns.idempotency import Answered, Claims, turn_of
from agent_runtime.turns.keeping import Keeping
from agent_runtime.turns.marks import marks_of
from agent_runtime.turns.one_at_a_time import OneAtATime
from agent_runtime.turns.outage import Outage, Standing
from agent_runtime.turns.placing import Placement, Placing
from agent_runtime.turns.prompting import Prompting, follows_template, with_defaults
from agent_runtime.turns.readiness import Readiness
from agent_runtime.turns.reading import read
from agent_runtime.turns.records import TurnRecord, TurnRecords, new_turn_id
from agent_runtime.turns.reporting import Reports
from agent_runtime.turns.results import leave, result_of
from agent_runtime.turns.stateless import Stateless
from agent_runtime.turns.unfinished import Unfinished
from agent_runtime.turns.writing import Writers
from agent_runtime.wire.events import Progress, TurnEvent, replayed
from agent_runtime.wire.turns import Cancellation, Timing, TurnRequest, TurnResult
from engine.pool import Engine, EnginePool
from state_store.errors import LeaseHeld, NotFound, StoreUnavailable
from state_store.records import Lease, Session
from state_store.store import StateStore
from tools.tool import ToolSpec

logger = logging.getLogger(__name__)

_LOOK_AGAIN = 0.05  # seconds, while a cancelled turn ends


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
        feed: Feed,
    ) -> None:
        """chat: None if only sessions without state are served; feed: is told of turns"""
        self.stateless = stateless
        self._store = store
        self.placing = Placing(store, pool, residency)
        self._pool = pool
        self._chat_format = chat
        self._residency = residency
        self._settings = settings
        self._histories = Histories(store)
        self.prompting = Prompting(store)
        self.readiness = Readiness(store, pool, residency, settings)
        self.admission = Admission(settings, residency, self._prefetch)
        self._writers = Writers(store, residency, settings)
        self.writing, self.given_back = self._writers.writing, self._writers.given_back
        self.claims = Claims(store, settings)
        self.unfinished = Unfinished(store, settings)
        self.records = TurnRecords(store, settings)
        self._answers = Answers(store, self.records, settings)
        self.cancelling = Cancelling(store, settings)
        self._feed = feed
        self.outage = Outage(store, settings, self._histories.hold)
        self._keeping = Keeping(self.outage, self._writers, self.claims, settings)
        self.completing = Completing(
            store,
            settings,
            self._histories,
            self.prompting,
            self._answers,
            self.outage,
            self._keeping,
            residency,
        )
        self._without_store = OneAtATime()

    async def run(
        self, session_id: str, request: TurnRequest, *, key: str | None = None
    ) -> AsyncGenerator[TurnEvent]:
        """Yield text as it is generated, then one TurnResult after the commit.

        key: of idempotency; the turn that had it first is answered again, and nothing generated

        While the store is gone, a session that this process has just served goes on: see
        `outage.py`.

        Raises NotFound, VaultLocked, LeaseHeld (another writer), HeadMoved (not `expected_head`),
        BadRequest, ContextFull, Overloaded, NoEngine, EngineUnreachable, EngineRefused,
        KeptTurnsRefused, FilesMissing, QuotaExceeded, Cancelled, Draining; KeyReused, StillRunning.
        After any of them the session's head is what it was.
        """
        with self.cancelling.turn():
            events = self._run_anyhow(session_id, request, key)
            async with contextlib.aclosing(events):
                async for event in events:
                    yield event

    async def resume(self, session_id: str) -> AsyncGenerator[TurnEvent]:
        """Run again the turn that was interrupted when its runtime died. As `run`, and raises
        NothingInterrupted."""
        session = await self._store.session(session_id)
        record = await self.records.read(session)
        if record is None or record.head != session.head:
            raise NothingInterrupted(
                f"no turn of {session_id} was interrupted; its head is {session.head or 'empty'}. "
                "Nothing was generated."
            )
        interrupted = self._run(session_id, record.request, record.key, on=record.head or "")
        with self.cancelling.turn():
            async with contextlib.aclosing(interrupted) as events:
                async for event in events:
                    yield event

    async def cancel(self, session_id: str) -> Cancellation:
        """End the session's turn, if it is being generated: its head stays. An interrupted one can
        not be resumed any more. Returns when it is over."""
        session = await self._store.session(session_id)
        record = await self.records.read(session)
        while record is not None:
            if await self._store.writer(session_id) != record.owner:  # it was interrupted
                async with self.writing(session_id):
                    await self.records.end(session, record.id)
                break
            await self.cancelling.ask(session, record.id)
            await asyncio.sleep(_LOOK_AGAIN)
            now = await self.records.read(session)
            if now is None or now.id != record.id:
                break
        try:
            head = (await self._store.session(session_id)).head
        except NotFound:
            if record is None:
                raise
            head = record.head  # it was made for the turn's answer, and went with it
        return Cancellation(
            session_id=session_id,
            turn=None if record is None else record.id,
            head=head,
            committed=record is not None and head != record.head,
        )

    async def _run_anyhow(
        self, session_id: str, request: TurnRequest, key: str | None
    ) -> AsyncGenerator[TurnEvent]:
        """With the store, or without it if it turns out to be gone."""
        began = False
        try:
            run = self._run(session_id, request, key)
            async with contextlib.aclosing(run) as events:
                async for event in events:
                    began = began or not isinstance(event, Progress)
                    yield event
        except LeaseHeld as error:
            await self._require_over(session_id, key, error)
            raise
        except StoreUnavailable as error:
            if began or self.outage.standing(session_id) is None:
                raise
            logger.warning("%s goes on without the store: %s", session_id, error)
            without = self._run_without_store(session_id, request, error, key)
            async with contextlib.aclosing(without) as events:
                async for event in events:
                    yield event

    async def _run(
        self, session_id: str, request: TurnRequest, key: str | None, *, on: str | None = None
    ) -> AsyncGenerator[TurnEvent]:
        """on: the head that it must be run on, as `expected_head`"""
        started = time.perf_counter()
        result: TurnResult | None = None
        is_retry = False
        if key is not None:
            _, is_first = await self.claims.claim(key, turn_of(session_id), request)
            # One that was answered while the store was gone could not be claimed.
            kept = self._keeping.answer(session_id, request, key)
            is_retry = not is_first or kept is not None
        if key is not None and is_retry:
            session = await self._store.session(session_id)
            result = await self._answers.given(session, key, request)
        if result is None:
            begun: list[tuple[Session, TurnRecord]] = []
            async with self.writing(session_id, at_last=lambda: self._end_record(begun)) as (
                session,
                lease,
            ):
                if session_id in self.outage.refused:
                    raise self.outage.refused.pop(session_id)
                session = await self.outage.catch_up(session, lease)
                if key is not None and is_retry:
                    result = await self._answers.found(session, key, request)
                if result is None:
                    require_head(session, on)
                    await require_expected(self._store, session, request)
                    record = self.records.new(session, request, owner=self._writers.owner, key=key)
                    begun.append((session, record))  # also if it is cancelled while it is written
                    await self.records.write(session, record)
                    events = self._record_turn(session, lease, record, started)
                    async with contextlib.aclosing(events):
                        async for event in events:
                            if isinstance(event, TurnResult):
                                result = event
                            else:
                                yield event
        # Only now: who has the result may start the next turn, and the lease is free.
        assert result is not None, "a turn ends with its result"
        for event in replayed(result) if result.replayed else (result,):
            yield event

    async def _end_record(self, begun: list[tuple[Session, TurnRecord]]) -> None:
        for session, record in begun:
            await self.records.end(session, record.id)

    async def _require_over(self, session_id: str, key: str | None, error: LeaseHeld) -> None:
        """Raises StillRunning unless it is a turn with another key that holds the lease: one that
        is just beginning has no record yet."""
        record = await self.records.read(await self._store.session(session_id))
        if key is not None and (record is None or record.key == key):
            raise StillRunning(
                f"{session_id} is being written, and as far as can be told by the first request "
                "with this key. Ask again in a moment."
            ) from error

    async def _record_turn(
        self, session: Session, lease: Lease, record: TurnRecord, started: float
    ) -> AsyncGenerator[TurnEvent]:
        # The record keeps the request as it came, for who sends it again.
        request = self._with_defaults(record.request, session)
        with self.cancelling.running(session, record.id) as cancellable:
            if await self.stateless.holds(session):
                events = self.stateless.turn(
                    session,
                    lease,
                    request,
                    cancellable=cancellable,
                    prepare=lambda result: self._answers.prepare(session, record, result),
                    started=started,
                )
            else:
                events = self._turn(session, lease, request, record, cancellable, started)
            events = self._feed.turn(session, record.id, events)
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, TurnResult):
                        with contextlib.suppress(StoreUnavailable):  # then the snapshot tells
                            await self._answers.give(session, record.key, record.request, event)
                        if record.key is not None and event.snapshot is not None:
                            told = Answered(record.key, record.request, event)
                            self.outage.answered(session.id, told)
                    yield event

    async def _turn(
        self,
        session: Session,
        lease: Lease,
        request: TurnRequest,
        record: TurnRecord,
        cancellable: Cancellable,
        started: float,
    ) -> AsyncGenerator[TurnEvent]:
        generation = Generation(await self.placing.place(session))
        with generation.counted():
            engine = generation.engine
            history = await self.history(session.head, session, engine)
            salt = await self._store.salt(session)
            asked = await self.prompting.ask(
                self.chat, Standing(session, salt, engine, history), request
            )
            before, delta, request = asked.before, asked.delta, asked.request
            await self._require_room(before, delta, request)
            if before.rewriting is not None:  # what the device has of the head is of no use
                self._residency.left(session.id)
            async with contextlib.AsyncExitStack() as stack:
                queued = stack.enter_async_context(self._slot(before, delta, request))
                slot = await cancellable.awaited(queued)
                reports = Reports(session.id, lambda: generation.engine, self._settings)
                prompt = before.after(delta).history
                length = len(prompt.tokens)
                generation.marks = await aside(
                    request.messages, marks_of, self.chat, before, prompt, request
                )
                readying = self.readiness.make_ready(before, prompt, engine, generation.marks)
                told = reports.during(readying, "load", then=generation.reasons.extend)
                telling = cancellable.events(told)
                async with contextlib.aclosing(telling):
                    async for progress in telling:
                        yield progress
                ready_at = time.perf_counter()
                generating = self._generate(before, prompt, request, generation)
                among = reports.among(generating, "load", "prefill", prompt_tokens=length)
                pieces = cancellable.events(among)
                async with contextlib.aclosing(pieces):
                    async for event in pieces:
                        yield event
                generated_at = time.perf_counter()
                asked = asked.on(generation.engine)
                results: list[TurnResult] = []
                committing = self.completing.complete(
                    self.chat, asked, lease, generation, request, record
                )
                telling = reports.during(committing, "commit", then=results.append)
                async with contextlib.aclosing(telling):
                    async for progress in telling:
                        yield progress
                (result,) = results
                leave(slot, result)
        timing = Timing(
            ttft_s=(generation.first_token_at or generated_at) - started,
            generate_s=generated_at - started,
            commit_s=time.perf_counter() - generated_at,
            queued_s=slot.queued,
            ready_s=ready_at - started - slot.queued,
        )
        yield result.model_copy(update={"timing": timing})

    async def history(self, snapshot_id: str | None, session: Session, engine: Engine) -> History:
        """The token history of one of the session's snapshots."""
        salt = await self._store.salt(session)
        return await self._histories.of(snapshot_id, engine.record.fingerprint, salt=salt)

    @property
    def chat(self) -> ChatFormat:
        if self._chat_format is None:
            raise NoModel(
                "this runtime serves only sessions without state: it was started without --model, "
                "and knows no tokenizer. The session is kept; ask a runtime that has the model."
            )
        return self._chat_format

    def forget(self, session_id: str) -> None:
        """What this process knows of the session's head, which was moved back."""
        self.outage.drop(session_id)
        self._residency.left(session_id)

    async def close(self) -> None:
        """Turns that still run are ended, and give their sessions back. Those that wait for the
        store end here: they lived in this process only."""
        await self.cancelling.close()
        await self._writers.close()
        await self.admission.close()
        await self._keeping.close()
        await self.readiness.close()

    def _with_defaults(self, request: TurnRequest, session: Session) -> TurnRequest:
        return with_defaults(request, session, answer_tokens=self._settings.answer_tokens)

    async def _require_room(self, before: Standing, delta: list[int], request: TurnRequest) -> None:
        """Raises QuotaExceeded where nothing that the turn generates could be committed."""
        tokens = len(before.history.tokens) + len(delta)
        fills_page = (tokens + request.max_tokens) // before.engine.record.page_size > (
            before.history.boundary // before.engine.record.page_size
        )
        await self._store.require_room(
            before.session.body.tenant, bytes=int(fills_page), tokens=len(delta) + 1
        )

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
            await self.readiness.stage(session, history.hashes[:pages], engine)

    async def _generate(
        self, before: Standing, asked: History, request: TurnRequest, generation: Generation
    ) -> AsyncGenerator[TurnEvent]:
        """asked: the history with the new prompt."""

        async def make_ready(engine: Engine) -> list[str]:
            try:
                return await self.readiness.make_ready(before, asked, engine, generation.marks)
            except StoreUnavailable as error:
                return [str(error)]

        attempts = Attempts(
            self._pool,
            self.placing,
            self._residency,
            self.chat,
            self._settings.boundary_interval,
        )
        pieces = attempts.text(
            before.session, asked, request, generation, salt=before.salt, make_ready=make_ready
        )
        tools = [ToolSpec.model_validate(tool) for tool in before.session.body.meta["tools"]]
        thinking = self.chat.thinks_after(asked.tokens)
        events = read(pieces, self.chat.calls, thinking=thinking, tools=tools)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def _run_without_store(
        self, session_id: str, request: TurnRequest, why: StoreUnavailable, key: str | None
    ) -> AsyncGenerator[TurnEvent]:
        """On the engine and the history that are known here. One turn at a time."""
        async with self._without_store.of(session_id):
            before = self.outage.standing(session_id)
            if before is None:  # refused meanwhile
                raise why
            given = self._keeping.answer(session_id, request, key)
            if given is None and key is not None:
                given = self.outage.answer(session_id, key, request)
            if given is not None:
                for event in replayed(given):
                    yield event
                return
            session = before.session
            require_head(session, request.expected_head)
            if follows_template(session):  # its messages are in the store
                raise why
            asked_for, request = request, self._with_defaults(request, session)
            prompted = await self.prompting.ask(self.chat, before, request)
            delta, request = prompted.delta, prompted.request
            if not self.outage.has_room(len(delta) + request.max_tokens):
                raise why
            why_there = "it holds the session, and nothing is known of others without the store"
            sealed = session.body.encrypted  # and who has the key cannot be asked
            generation = Generation(Placement(before.engine, why_there, past_router=sealed))
            asked = before.after(delta).history
            generation.marks = await aside(
                request.messages, marks_of, self.chat, before, asked, request
            )
            async with contextlib.AsyncExitStack() as stack:
                stack.enter_context(generation.counted())
                cancellable = stack.enter_context(self.cancelling.running(session, new_turn_id()))
                queued = stack.enter_async_context(self._slot(before, delta, request))
                slot = await cancellable.awaited(queued)
                if not self.outage.is_current(before):  # a turn that began with the store has ended
                    raise why
                generating = self._generate(before, asked, request, generation)
                pieces = cancellable.events(generating)
                async with contextlib.aclosing(pieces):
                    async for event in pieces:
                        yield event
                before = dataclasses.replace(before, engine=generation.engine)
                result = result_of(self.chat, before, delta, generation, request)
                leave(slot, result)
            new_ids = [*delta, *generation.ids]
            yield self._keeping.keep(before, new_ids, result, asked_for, why, key)
