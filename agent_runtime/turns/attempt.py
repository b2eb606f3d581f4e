"""Generating a turn's tokens, on another engine if one dies in the middle.

    engine a   prompt ──► t1 t2 t3 ✕
    engine b   prompt + t1 t2 t3 ──► t4 t5 …      the client sees each token once

What has been given to the client is never taken back: the next engine continues from there. Greedy
it gives the tokens that the first would have given; sampled it draws others, as likely as those.
"""

from __future__ import annotations

import contextlib
import logging
import time
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from tokenizers.decoders import DecodeStream

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.histories import History
from agent_runtime.scheduling.residency import Residency
from agent_runtime.turns.boundaries import interval_of
from agent_runtime.turns.constraints import structural_tag
from agent_runtime.turns.generation import Generation
from agent_runtime.turns.placing import Placement, Placing
from agent_runtime.turns.stopping import StopWatch
from agent_runtime.turns.thinking import ThinkingLimit
from agent_runtime.wire.turns import TurnRequest
from engine.client import Chunk, EngineClient, Sampling
from engine.errors import EngineUnreachable, LoadFailed, NoEngine
from engine.pool import Engine, EnginePool
from state_store.errors import StoreUnavailable
from state_store.records import Session

logger = logging.getLogger(__name__)

_LOADS = 2  # attempts at an engine that may load stored state; one more computes everything
MakeReady = Callable[[Engine], Awaitable[list[str]]]
"""Has an engine stage what a turn builds on; why not all of that can be restored."""


class Attempts:
    """Generates, wherever that works."""

    def __init__(
        self,
        pool: EnginePool,
        placing: Placing,
        residency: Residency,
        chat: ChatFormat,
        boundary_interval: int | None,
    ) -> None:
        """boundary_interval: see `RuntimeSettings`"""
        self._pool = pool
        self._placing = placing
        self._residency = residency
        self._chat = chat
        self._boundary_interval = boundary_interval

    async def text(
        self,
        session: Session,
        asked: History,
        request: TurnRequest,
        generation: Generation,
        *,
        salt: str,
        make_ready: MakeReady,
    ) -> AsyncGenerator[str]:
        """Yield text as its bytes are whole, what the engine sends at once in one piece;
        everything else goes into `generation`.

        asked: the prompt, all of it.

        Raises EngineUnreachable when engines failed and no other can take over, LoadFailed when one
        failed to load stored state that it was told not to load, EngineRefused, UnknownTool, and
        Unsupported.
        """
        declared = session.body.meta["tools"]
        thinks = self._chat.thinks_after(asked.tokens)
        limit = ThinkingLimit(
            self._chat, request.thinking_tokens, opened=thinks, max_tokens=request.max_tokens
        )
        held_to = structural_tag(
            request, declared, self._chat.calls, thinking=thinks, limited=limit.is_open
        )
        if held_to is not None and not thinks:  # then it cannot think
            limit.end(0)
        decoder = DecodeStream(skip_special_tokens=False)
        watch = StopWatch(request.stop)
        tried: set[str] = set()
        loads = 0
        while not self._is_complete(generation, request):
            stream = self._stream(
                session,
                asked,
                request,
                generation,
                salt,
                held_to=held_to,
                limit=limit,
                restore=loads < _LOADS,
            )
            watched = self._watched(session, generation, stream)
            try:
                applied = limit.applied(watched, generation.ids, held=held_to is not None)
                async with contextlib.aclosing(applied) as chunks:
                    async for chunk in chunks:
                        await self._see_who_serves(session, generation, chunk)
                        certain = ""
                        for place, token in _collect(generation, chunk):
                            piece = decoder.step(self._chat.tokenizer, token)
                            if piece is None or token == self._chat.eos_id:
                                continue
                            certain += watch.feed(piece)
                            if watch.found is not None:
                                generation.end_after(place + 1, stopped_by=watch.found)
                                break
                        if certain:
                            yield certain
                        if watch.found is not None:  # leaving aborts it on the engine
                            return
                if not limit.is_open:
                    break
                limit.end(len(generation.ids))
                loads = 0
            except LoadFailed as error:
                # The linker has forgotten what it could not load: a second attempt restores what
                # is really there and recomputes the rest; the last one loads nothing.
                if loads == _LOADS:
                    raise
                loads += 1
                self._residency.left(session.id)
                generation.reasons += [str(error), *await make_ready(generation.engine)]
            except EngineUnreachable as error:
                tried.add(generation.engine.record.boot_id)
                if self._is_complete(generation, request):
                    break
                if held_to is not None and len(generation.ids) > limit.ended_at:
                    raise EngineUnreachable(
                        f"{error} The session is unchanged. No other engine takes over in the "
                        "middle of an answer that is held to a grammar; repeat the turn."
                    ) from error
                await self._move(session, generation, tried, error)
                generation.reasons[:] = await make_ready(generation.engine)
                loads = 0
        if rest := watch.finish():
            yield rest

    def _is_complete(self, generation: Generation, request: TurnRequest) -> bool:
        """Whether the last token that an engine gave before it died was the last one anyway."""
        if generation.ids and generation.ids[-1] == self._chat.eos_id:
            generation.finish_reason = "stop"
            return True
        return len(generation.ids) >= request.max_tokens

    def _stream(
        self,
        session: Session,
        asked: History,
        request: TurnRequest,
        generation: Generation,
        salt: str,
        *,
        held_to: str | None,
        limit: ThinkingLimit,
        restore: bool,
    ) -> AsyncGenerator[Chunk]:
        engine = generation.engine
        client = self._router(generation) or engine.client
        generated = len(generation.ids)
        sampling = Sampling(
            max_new_tokens=limit.most(request.max_tokens - generated, generated=generated),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop_token_ids=(self._chat.eos_id, *limit.stop_ids),
            structural_tag=None if limit.is_open else held_to,
        )
        return client.generate(
            asked.tokens + array("I", generation.ids),
            sampling,
            salt=salt,
            session_id=self._residency.tag(session.id, engine.record.boot_id),
            routing_key=session.id,
            top_logprobs=request.top_logprobs,
            page_hashes=asked.hashes,
            page_size=engine.record.page_size,
            restore=restore,
            boundary_interval=interval_of(engine.record, self._boundary_interval),
            marks=generation.marks,
        )

    def _router(self, generation: Generation) -> EngineClient | None:
        return None if generation.placement.past_router else self._pool.router

    async def _watched(
        self, session: Session, generation: Generation, chunks: AsyncGenerator[Chunk]
    ) -> AsyncGenerator[Chunk]:
        """The chunks; EngineUnreachable once the engine is gone, even if the connection stays."""

        async def following() -> Chunk | None:
            return await anext(chunks, None)

        async with contextlib.aclosing(chunks):
            if self._router(generation) is not None:  # who serves is not known before a chunk
                format_id = generation.engine.record.fingerprint.id
                first = self._pool.while_all_alive(following(), format_id, session.id)
                if (chunk := await first) is None:
                    return
                yield chunk
            while (chunk := await generation.engine.while_alive(following())) is not None:
                yield chunk

    async def _see_who_serves(self, session: Session, generation: Generation, chunk: Chunk) -> None:
        """Behind a router another engine may have been chosen than ours."""
        boot_id = chunk.boot_id
        if boot_id is None or boot_id == generation.engine.record.boot_id:
            return
        try:
            engine = await self._pool.with_boot(boot_id)
            if engine is None:
                return
            unsealed = await self._placing.why_unsealed(session, engine)
        except StoreUnavailable:
            return  # then the commit does not ask either
        generation.move(Placement(engine, "the router chose it"))
        self._residency.placed(session.id, boot_id)
        if unsealed is not None:
            logger.warning("%s: %s", session.id, unsealed)
            generation.reasons.append(unsealed)

    async def _move(
        self,
        session: Session,
        generation: Generation,
        tried: set[str],
        error: EngineUnreachable,
    ) -> None:
        """Place the rest of the turn elsewhere. Raises EngineUnreachable if nowhere can."""
        failed = generation.engine
        self._pool.put_aside(failed, str(error))
        self._residency.left(session.id)
        try:
            generation.move(await self._placing.place(session, without=tried, like=failed))
        except (NoEngine, StoreUnavailable) as none:
            raise EngineUnreachable(
                f"{error} The session is unchanged. No other engine takes over: {none}"
            ) from error
        generation.failed_over.append(
            f"engine {failed.record.engine_id} failed after {len(generation.ids)} tokens "
            f"({error.__cause__ or error}); {generation.engine.record.engine_id} went on from there"
        )


def _collect(generation: Generation, chunk: Chunk) -> Sequence[tuple[int, int]]:
    """The chunk's tokens with their places in the answer."""
    if chunk.new_ids and generation.first_token_at is None:
        generation.first_token_at = time.perf_counter()
    places = range(len(generation.ids), len(generation.ids) + len(chunk.new_ids))
    generation.ids.extend(chunk.new_ids)
    generation.logprobs.extend(chunk.logprobs)
    generation.cached_tokens = chunk.cached_tokens
    generation.accept_length = chunk.accept_length
    generation.finish_reason = chunk.finish_reason or generation.finish_reason
    return list(zip(places, chunk.new_ids, strict=True))
