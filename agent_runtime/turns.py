"""A turn: append messages, generate, commit one snapshot.

lease ── place ── history ── delta ── ready? ── generate ── settle ── commit
                                       │          └─ if the engine dies, another goes on
                                       │  prefetch if the engine may not hold the head
                                       └─ what cannot be restored is recomputed, and the answer
                                          says so
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from agent_runtime.attempt import Attempts
from agent_runtime.chat import ChatFormat
from agent_runtime.committing import commit_turn
from agent_runtime.errors import (
    BadRequest,
    ContextFull,
    HeadMoved,
    KeptTurnsRefused,
    NoModel,
    TorporError,
)
from agent_runtime.generation import Generation, usage_of, without_eos
from agent_runtime.histories import Histories, History
from agent_runtime.models import (
    Timing,
    TokenLogprob,
    TopLogprob,
    TurnRequest,
    TurnResult,
)
from agent_runtime.outage import KeptTurn, Outage, Standing
from agent_runtime.placing import Placement, Placing
from agent_runtime.residency import Residency
from agent_runtime.settings import RuntimeSettings
from agent_runtime.staging import Staging
from agent_runtime.stateless import Stateless
from agent_runtime.storable import storable_session
from engine.errors import EngineError, EngineUnreachable
from engine.pool import Engine, EnginePool, EngineRecord, Prefetch
from state_store.errors import NotFound, StoreError, StoreUnavailable
from state_store.records import Lease, Session
from state_store.store import StateStore
from tools.calls import parse
from tools.define import ToolSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Text:
    """A piece of generated text, as soon as its bytes are whole."""

    text: str


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
        self._staging = Staging(store, timeout=settings.prefetch_timeout)
        self.outage = Outage(store, settings, self._histories.hold)
        self._without_store: dict[str, asyncio.Lock] = {}
        self._catching_up: dict[str, asyncio.Task[None]] = {}
        self._releases: set[asyncio.Task[None]] = set()
        self._owner = f"runtime-{uuid.uuid4().hex[:12]}"

    async def run(self, session_id: str, request: TurnRequest) -> AsyncGenerator[Text | TurnResult]:
        """Yield text as it is generated, then one TurnResult after the commit.

        While the store is gone, a session that this process has just served goes on: see
        `outage.py`.

        Raises NotFound, CannotStore, LeaseHeld (another writer), HeadMoved (not `expected_head`),
        BadRequest, ContextFull, NoEngine, EngineUnreachable, EngineRefused, KeptTurnsRefused. After
        any of them the session's head is what it was.
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

    async def _run(
        self, session_id: str, request: TurnRequest
    ) -> AsyncGenerator[Text | TurnResult]:
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
                        yield event if isinstance(event, TurnResult) else Text(event)
                return
            started = time.perf_counter()
            generation = Generation(await self.placing.place(session))
            with generation.counted():
                engine = generation.engine
                history = await self.history(session.head, session, engine)
                salt = (await self._store.tenant(session.body.tenant)).salt
                before = Standing(session, salt, engine, history)
                prompt_delta = self._delta(session, history, request)
                _require_room(history, prompt_delta, request, engine)
                generation.reasons += await self.make_ready(session, history, engine)
                asked = before.after(prompt_delta).history
                await self._renew_shared(session, history, engine, asked.hashes)
                pieces = self._generate(before, asked, request, generation)
                async with contextlib.aclosing(pieces):
                    async for text in pieces:
                        yield text
                generated_at = time.perf_counter()
                before = dataclasses.replace(before, engine=generation.engine)
                result = await self._commit(before, lease, prompt_delta, generation, request)
            timing = Timing(
                ttft_s=(generation.first_token_at or generated_at) - started,
                generate_s=generated_at - started,
                commit_s=time.perf_counter() - generated_at,
            )
        # Only now: who has the result may start the next turn, and the lease is free.
        yield result.model_copy(update={"timing": timing})

    @contextlib.asynccontextmanager
    async def writing(self, session_id: str) -> AsyncIterator[tuple[Session, Lease]]:
        """Hold the session's lease, renewed in the background, for the length of the block.

        Raises CannotStore."""
        if self._residency.servers(session_id) is None:
            self._residency.writing_to(session_id, await self._store.watch("fsync"))
        lease = await self._store.acquire(
            session_id, ttl=self._settings.lease_ttl, owner=self._owner
        )
        renewing = asyncio.create_task(self._renew(lease))
        try:
            yield await storable_session(self._store, session_id), lease
        finally:
            renewing.cancel()
            # Not awaited in here alone: when the client has gone, every wait of this request is
            # cancelled at once, and the lease would be held until it expires.
            releasing = asyncio.create_task(self._release(lease, renewing))
            self._releases.add(releasing)
            releasing.add_done_callback(self._releases.discard)
            await asyncio.shield(releasing)

    async def _release(self, lease: Lease, renewing: asyncio.Task[None]) -> None:
        await asyncio.wait([renewing])
        with contextlib.suppress(StoreUnavailable):  # then it expires by itself
            await self._store.release(lease)

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
        for task in self._catching_up.values():
            task.cancel()
        await asyncio.gather(*self._catching_up.values(), return_exceptions=True)
        await self._staging.close()

    async def stage(self, session_id: str, hashes: Sequence[str], engine: Engine) -> Prefetch:
        """See `Staging.stage`."""
        return await self._staging.stage(session_id, hashes, engine)

    async def make_ready(self, session: Session, history: History, engine: Engine) -> list[str]:
        """Have the engine stage the head unless it holds it; reasons why not all of it can be."""
        boot_id = engine.record.boot_id
        pages = history.boundary // engine.record.page_size
        if pages and self._pool.router is not None:
            await self._announce(history.hashes[:pages], session, engine)
        if not pages or self._residency.on_device(session.id, boot_id):
            return []
        try:
            found = await self.stage(session.id, history.hashes[:pages], engine)
        except EngineUnreachable as error:
            return [f"prefetch failed: {error}"]
        self._residency.placed(session.id, boot_id)
        logger.info("staged %d of %d pages of %s", found.pages, pages, session.id)
        return [found.reason] if found.reason else []

    async def _announce(self, hashes: Sequence[str], session: Session, placed: Engine) -> None:
        """To the engines that a router may choose instead of the one where it is staged."""
        for engine in await self._pool.usable(session.body.fingerprint_id):
            if engine is not placed:
                try:
                    await engine.announce(hashes, timeout=self._settings.prefetch_timeout)
                except EngineUnreachable as error:
                    logger.warning("%s is not announced: %s", session.id, error)

    async def _renew_shared(
        self, session: Session, history: History, engine: Engine, hashes: Sequence[str]
    ) -> None:
        """Pages of the new prompt that are on the device may be another session's, and may have
        expired from the store when that was deleted: then this turn stores them again."""
        new = hashes[history.boundary // engine.record.page_size :]
        if not new:
            return
        try:
            expired = await engine.renew(new, timeout=self._settings.settle_timeout)
        except EngineUnreachable as error:
            logger.warning("shared pages of %s not renewed: %s", session.id, error)
            return
        if expired:
            logger.info("%d expired objects of %s are stored again", expired, session.id)

    async def _renew(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_ttl / 3)
            try:
                await self._store.renew(lease, ttl=self._settings.lease_ttl)
            except Exception as error:  # the commit is fenced: it will refuse a lost lease
                logger.warning("lease of %s not renewed: %s", lease.session_id, error)

    def _delta(self, session: Session, history: History, request: TurnRequest) -> list[int]:
        if request.proceed:
            if not history.tokens or history.tokens[-1] == self._chat.eos_id:
                raise BadRequest(
                    f"{session.id} does not end in a prompt or an unfinished answer, so there is "
                    "nothing to proceed with; the session is unchanged. Send a message instead."
                )
            return []
        if not history.tokens:
            return self._chat.opening(
                request.messages,
                system=session.body.meta["system"],
                tools=[ToolSpec.model_validate(tool) for tool in session.body.meta["tools"]],
            )
        ended = history.tokens[-1] == self._chat.eos_id
        return self._chat.delta(request.messages, ended=ended)

    async def _generate(
        self, before: Standing, asked: History, request: TurnRequest, generation: Generation
    ) -> AsyncGenerator[Text]:
        """asked: the history with the new prompt."""

        async def make_ready(engine: Engine) -> list[str]:
            try:
                reasons = await self.make_ready(before.session, before.history, engine)
                await self._renew_shared(before.session, before.history, engine, asked.hashes)
            except StoreUnavailable as error:
                return [str(error)]
            return reasons

        attempts = Attempts(self._pool, self.placing, self._residency, self._chat)
        pieces = attempts.text(
            before.session, asked, request, generation, salt=before.salt, make_ready=make_ready
        )
        async with contextlib.aclosing(pieces):
            async for text in pieces:
                yield Text(text)

    async def _commit(
        self,
        before: Standing,
        lease: Lease,
        prompt_delta: list[int],
        generation: Generation,
        request: TurnRequest,
    ) -> TurnResult:
        session, engine, record = before.session, before.engine, before.engine.record
        new_ids = [*prompt_delta, *generation.ids]
        after = before.after(new_ids)
        result = self._result(before, prompt_delta, generation, request)
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
            return self._keep(before, new_ids, result, request, error)
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

    def _result(
        self,
        before: Standing,
        prompt_delta: list[int],
        generation: Generation,
        request: TurnRequest,
    ) -> TurnResult:
        session, history, record = before.session, before.history, before.engine.record
        usage = usage_of(history, prompt_delta, generation)
        message = parse(
            self._chat.decode(without_eos(generation.ids, self._chat.eos_id)),
            cut_off=generation.finish_reason == "length",
        )
        return TurnResult(
            session_id=session.id,
            parent=session.head,
            engine=record.engine_id,
            engine_because=generation.placement.why,
            failed_over="; ".join(generation.failed_over) or None,
            text=message.text,
            tool_calls=list(message.calls),
            problems=[*message.problems, *_unsampled(request, record)],
            finish_reason=generation.finish_reason,
            token_ids=generation.ids,
            usage=usage,
            mtp_accept_length=generation.accept_length,
            logprobs=[
                TokenLogprob(
                    token=position.token,
                    logprob=position.logprob,
                    top=[TopLogprob(token=t, logprob=value) for t, value in position.top],
                )
                for position in generation.logprobs
            ],
        )

    def _keep(
        self,
        before: Standing,
        new_ids: list[int],
        result: TurnResult,
        request: TurnRequest,
        error: StoreUnavailable,
    ) -> TurnResult:
        """Keep a turn that cannot be committed now, and commit it when the store is back."""
        session_id = before.session.id
        if not self.outage.has_room(len(new_ids)):
            logger.error("turn of %s is lost: %s", session_id, error)
            why = f"lost: no memory is left to keep it until the store is back ({error})"
            return result.model_copy(update={"not_durable_because": why})
        turn = KeptTurn(new_ids, result.usage.prompt_tokens, request.durability)
        self.outage.keep(before, turn)
        logger.error("turn of %s is kept in memory: %s", session_id, error)
        if session_id not in self._catching_up:
            task = asyncio.create_task(self._catch_up(session_id))
            self._catching_up[session_id] = task
            task.add_done_callback(lambda _: self._catching_up.pop(session_id, None))
        why = f"not committed: kept in memory until the store is back ({error})"
        return result.model_copy(update={"kept": True, "not_durable_because": why})

    async def _catch_up(self, session_id: str) -> None:
        while self.outage.kept(session_id):
            await asyncio.sleep(self._settings.catch_up_interval)
            try:
                async with self.writing(session_id) as (session, lease):
                    await self.outage.catch_up(session, lease)
            except KeptTurnsRefused as error:
                self.outage.refused[session_id] = error  # the next turn ends with it
                logger.error("%s", error)
            except NotFound as error:
                self.outage.drop(session_id)
                logger.error("kept turns of %s are dropped: %s", session_id, error)
            except (StoreError, TorporError, EngineError) as error:
                logger.warning("kept turns of %s are not committed: %s", session_id, error)

    async def _run_without_store(
        self, session_id: str, request: TurnRequest, why: StoreUnavailable
    ) -> AsyncGenerator[Text | TurnResult]:
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
            prompt_delta = self._delta(session, history, request)
            _require_room(history, prompt_delta, request, before.engine)
            if not self.outage.has_room(len(prompt_delta) + request.max_tokens):
                raise why
            why_there = "it holds the session, and nothing is known of others without the store"
            generation = Generation(Placement(before.engine, why_there))
            asked = before.after(prompt_delta).history
            with generation.counted():
                pieces = self._generate(before, asked, request, generation)
                async with contextlib.aclosing(pieces):
                    async for text in pieces:
                        yield text
            before = dataclasses.replace(before, engine=generation.engine)
            result = self._result(before, prompt_delta, generation, request)
            yield self._keep(before, [*prompt_delta, *generation.ids], result, request, why)


def _require_room(
    history: History, prompt_delta: list[int], request: TurnRequest, engine: Engine
) -> None:
    prompt_tokens = len(history.tokens) + len(prompt_delta)
    limit = engine.record.context_length
    if limit and prompt_tokens + request.max_tokens > limit:
        raise ContextFull(
            f"{prompt_tokens} prompt tokens + {request.max_tokens} to generate exceed the "
            f"engine's context of {limit}; the session is unchanged."
        )


def _unsampled(request: TurnRequest, record: EngineRecord) -> list[str]:
    if not request.temperature or not record.greedy_only:
        return []
    return [
        "only the first token was sampled: this engine verifies drafts greedily, as SGLang does on "
        "a CPU. Start it with --no-mtp to sample."
    ]
