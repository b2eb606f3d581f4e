"""A turn: append messages, generate, commit one snapshot.

lease ── history ── delta ── ready? ── generate ── settle ── commit
                              │  prefetch if the engine may not hold the head
                              └─ what cannot be restored is recomputed, and the answer says so
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from tokenizers.decoders import DecodeStream

from agent_runtime.chat import ChatFormat
from agent_runtime.committing import commit_turn
from agent_runtime.errors import BadRequest, ContextFull, HeadMoved, NoModel
from agent_runtime.histories import Histories, History
from agent_runtime.models import (
    Timing,
    TokenLogprob,
    TopLogprob,
    TurnRequest,
    TurnResult,
    Usage,
)
from agent_runtime.residency import Residency
from agent_runtime.settings import RuntimeSettings
from agent_runtime.staging import Staging
from agent_runtime.stateless import Stateless
from agent_runtime.storable import storable_session
from engine.client import Chunk, Sampling, TokenLogprobs
from engine.errors import EngineUnreachable, LoadFailed
from engine.pool import Engine, EnginePool, Prefetch
from state_store.errors import StoreUnavailable
from state_store.records import Lease, Session
from state_store.store import StateStore
from tools.calls import parse
from tools.define import ToolSpec

logger = logging.getLogger(__name__)

_ATTEMPTS = 3  # to generate, when stored state cannot be loaded


@dataclass(frozen=True)
class Text:
    """A piece of generated text, as soon as its bytes are whole."""

    text: str


@dataclass
class _Generation:
    """What came out of the engine for one turn."""

    ids: list[int]
    logprobs: list[TokenLogprobs]
    cached_tokens: int = 0
    finish_reason: str = "length"
    accept_length: float | None = None
    first_token_at: float | None = None


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
        self._pool = pool
        self._chat_format = chat
        self._residency = residency
        self._settings = settings
        self._histories = Histories(store)
        self._staging = Staging(store, timeout=settings.prefetch_timeout)
        self._releases: set[asyncio.Task[None]] = set()
        self._owner = f"runtime-{uuid.uuid4().hex[:12]}"

    async def run(self, session_id: str, request: TurnRequest) -> AsyncGenerator[Text | TurnResult]:
        """Yield text as it is generated, then one TurnResult after the commit.

        Raises NotFound, CannotStore, LeaseHeld (another writer), HeadMoved (not `expected_head`),
        BadRequest, ContextFull, NoEngine, EngineUnreachable, EngineRefused. After any of them the
        session's head is what it was.
        """
        async with self.writing(session_id) as (session, lease):
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
            engine = await self._pool.pick(session.body.fingerprint_id)
            history = await self.history(session.head, session, engine)
            prompt_delta = self._delta(session, history, request)
            prompt_tokens = len(history.tokens) + len(prompt_delta)
            limit = engine.record.context_length
            if limit and prompt_tokens + request.max_tokens > limit:
                raise ContextFull(
                    f"{prompt_tokens} prompt tokens + {request.max_tokens} to generate exceed the "
                    f"engine's context of {limit}; the session is unchanged."
                )
            reasons = await self.make_ready(session, history, engine)
            prompt, hashes = await self._extended(session, history, engine, prompt_delta)
            await self._renew_shared(session, history, engine, hashes)
            generation = _Generation([], [])
            async for text in self._generate(
                session, engine, history, prompt, hashes, request, generation, reasons
            ):
                yield Text(text)
            generated_at = time.perf_counter()
            result = await self._commit(
                session, lease, engine, history, prompt_delta, generation, request, reasons
            )
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
        await self._staging.close()

    async def stage(self, session_id: str, hashes: Sequence[str], engine: Engine) -> Prefetch:
        """See `Staging.stage`."""
        return await self._staging.stage(session_id, hashes, engine)

    async def make_ready(self, session: Session, history: History, engine: Engine) -> list[str]:
        """Have the engine stage the head unless it holds it; reasons why not all of it can be."""
        boot_id = engine.record.boot_id
        if not history.boundary or self._residency.on_device(session.id, boot_id):
            return []
        pages = history.boundary // engine.record.page_size
        try:
            found = await self.stage(session.id, history.hashes[:pages], engine)
        except EngineUnreachable as error:
            return [f"prefetch failed: {error}"]
        self._residency.placed(session.id, boot_id)
        logger.info("staged %d of %d pages of %s", found.pages, pages, session.id)
        return [found.reason] if found.reason else []

    async def _extended(
        self, session: Session, history: History, engine: Engine, new: Sequence[int]
    ) -> tuple[array[int], list[str]]:
        """Tokens and page chain of the history and `new`."""
        record = engine.record
        tenant = await self._store.tenant(session.body.tenant)
        return history.extended(
            new, page_size=record.page_size, salt=tenant.salt, bigram=record.fingerprint.bigram
        )

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
            if session.head is None or history.tokens[-1] == self._chat.eos_id:
                raise BadRequest(
                    f"{session.id} does not end in a prompt or an unfinished answer, so there is "
                    "nothing to proceed with; the session is unchanged. Send a message instead."
                )
            return []
        if session.head is None:
            return self._chat.opening(
                request.messages,
                system=session.body.meta["system"],
                tools=[ToolSpec.model_validate(tool) for tool in session.body.meta["tools"]],
            )
        ended = history.tokens[-1] == self._chat.eos_id
        return self._chat.delta(request.messages, ended=ended)

    async def _generate(
        self,
        session: Session,
        engine: Engine,
        history: History,
        prompt: array[int],
        hashes: Sequence[str],
        request: TurnRequest,
        generation: _Generation,
        reasons: list[str],
    ) -> AsyncIterator[str]:
        tenant = await self._store.tenant(session.body.tenant)
        sampling = Sampling(
            max_new_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop_token_ids=(self._chat.eos_id,),
        )
        decoder = DecodeStream(skip_special_tokens=False)
        for attempt in range(1, _ATTEMPTS + 1):
            stream = engine.client.generate(
                prompt,
                sampling,
                salt=tenant.salt,
                session_id=self._residency.tag(session.id, engine.record.boot_id),
                top_logprobs=request.top_logprobs,
                page_hashes=hashes,
                page_size=engine.record.page_size,
                restore=attempt < _ATTEMPTS,
            )
            try:
                async for chunk in stream:
                    for token in self._collect(generation, chunk):
                        piece = decoder.step(self._chat.tokenizer, token)
                        if piece is not None and token != self._chat.eos_id:
                            yield piece
                return
            except LoadFailed as error:
                # The linker has forgotten what it could not load: a second attempt restores what
                # is really there and recomputes the rest; the last one loads nothing.
                if attempt == _ATTEMPTS or generation.ids:
                    raise
                reasons.append(str(error))
                self._residency.left(session.id)
                reasons.extend(await self.make_ready(session, history, engine))

    def _collect(self, generation: _Generation, chunk: Chunk) -> Sequence[int]:
        if chunk.new_ids and generation.first_token_at is None:
            generation.first_token_at = time.perf_counter()
        generation.ids.extend(chunk.new_ids)
        generation.logprobs.extend(chunk.logprobs)
        generation.cached_tokens = chunk.cached_tokens
        generation.accept_length = chunk.accept_length
        generation.finish_reason = chunk.finish_reason or generation.finish_reason
        return chunk.new_ids

    async def _commit(
        self,
        session: Session,
        lease: Lease,
        engine: Engine,
        history: History,
        prompt_delta: list[int],
        generation: _Generation,
        request: TurnRequest,
        reasons: list[str],
    ) -> TurnResult:
        record = engine.record
        new_ids = [*prompt_delta, *generation.ids]
        tokens, hashes = await self._extended(session, history, engine, new_ids)
        usage = _usage(history, prompt_delta, generation, reasons)
        message = parse(
            self._chat.decode(_without_eos(generation.ids, self._chat.eos_id)),
            cut_off=generation.finish_reason == "length",
        )
        result = TurnResult(
            session_id=session.id,
            parent=session.head,
            text=message.text,
            tool_calls=list(message.calls),
            problems=list(message.problems),
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
        try:
            commit, shortfall = await commit_turn(
                self._store,
                engine,
                session,
                lease,
                history,
                new_ids,
                hashes,
                prompt_tokens=usage.prompt_tokens,
                durability=request.durability,
                settle_timeout=self._settings.settle_timeout,
                boundary_interval=self._settings.boundary_interval,
            )
        except StoreUnavailable as error:
            logger.error("turn of %s is not committed: %s", session.id, error)
            return result.model_copy(update={"not_durable_because": str(error)})
        snapshot = commit.snapshot
        self._histories.hold(snapshot.id, History(tokens, hashes, snapshot.boundary))
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
            }
        )


def _usage(
    history: History, prompt_delta: list[int], generation: _Generation, reasons: list[str]
) -> Usage:
    reused = generation.cached_tokens
    recomputed = max(0, len(history.tokens) - reused)
    if reused < history.boundary and not reasons:
        reasons = ["the engine no longer held the head's boundary (evicted or flushed)"]
    return Usage(
        prompt_tokens=len(history.tokens) + len(prompt_delta),
        completion_tokens=len(generation.ids),
        reused_tokens=reused,
        recomputed_tokens=recomputed,
        boundary_tokens=history.boundary,
        recompute_reason="; ".join(reasons) or ("past the last boundary" if recomputed else None),
    )


def _without_eos(ids: list[int], eos_id: int) -> list[int]:
    return ids[:-1] if ids and ids[-1] == eos_id else ids
