"""Telling a client how far a long turn or resume is, while nothing else can be told.

    ready ──────── generate ──────────────── commit
    load           load, prefill, then text  commit

What is waited for runs on; beside it the engine is asked. A wait that ends soon asks nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.events import Phase, Progress
from engine.errors import EngineUnreachable
from engine.pool import Engine
from state_store.errors import StoreUnavailable

logger = logging.getLogger(__name__)

_TIMEOUT = 2.0  # seconds for the engine's answer
_RAREST = 8  # how many times longer the engine is left alone that has nothing new to tell
_T = TypeVar("_T")


class Reports:
    """Of one turn or resume."""

    def __init__(
        self, session_id: str, engine: Callable[[], Engine], settings: RuntimeSettings
    ) -> None:
        """engine: the one that is at work now"""
        self._session_id = session_id
        self._engine = engine
        self._settings = settings
        self._last: Progress | None = None

    async def during(
        self, work: Coroutine[Any, Any, _T], *phases: Phase, then: Callable[[_T], object]
    ) -> AsyncGenerator[Progress]:
        """Run `work` to its end, and hand its result to `then`."""
        working = asyncio.ensure_future(work)
        try:
            async with contextlib.aclosing(self._until(working, phases, 0)) as telling:
                async for progress in telling:
                    yield progress
            then(working.result())
        finally:
            await _ended(working)

    async def among(
        self, events: AsyncGenerator[_T], *phases: Phase, prompt_tokens: int
    ) -> AsyncGenerator[_T | Progress]:
        """The events, and progress where they are long in coming. prompt_tokens: of the prompt that
        is computed now; the engine may still tell of an earlier one."""
        async with contextlib.aclosing(events):
            while True:
                coming = asyncio.ensure_future(_next(events))
                try:
                    telling = self._until(coming, phases, prompt_tokens)
                    async with contextlib.aclosing(telling):
                        async for progress in telling:
                            yield progress
                    found = coming.result()
                finally:
                    await _ended(coming)
                if not found:
                    return
                yield found[0]

    async def _until(
        self, waiting: asyncio.Future[Any], phases: Sequence[Phase], prompt_tokens: int
    ) -> AsyncGenerator[Progress]:
        pause, interval = self._settings.progress_after, self._settings.progress_interval
        while not (await asyncio.wait({waiting}, timeout=pause))[0]:
            looking = asyncio.ensure_future(self._look(phases, prompt_tokens))
            try:
                await asyncio.wait({waiting, looking}, return_when=asyncio.FIRST_COMPLETED)
                found = looking.result() if looking.done() else None
                is_new = found is not None and found != self._last
                longer = min(2 * max(pause, interval), _RAREST * interval)
                pause = interval if is_new else longer
                if found is not None and is_new:
                    self._last = found
                    yield found
            finally:
                await _ended(looking)

    async def _look(self, phases: Sequence[Phase], prompt_tokens: int) -> Progress | None:
        try:
            work = await self._engine().progress(self._session_id, timeout=_TIMEOUT)
        except (EngineUnreachable, StoreUnavailable) as error:
            logger.debug("no progress of %s: %s", self._session_id, error)
            return None
        parts = {"load": work.load, "prefill": work.prefill, "commit": work.offload}
        for phase in phases:
            done, total = parts[phase]
            if done < total and (phase != "prefill" or total >= prompt_tokens):
                return Progress(phase=phase, done=done, total=total)
        return None


async def _ended(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


async def _next(events: AsyncGenerator[_T]) -> tuple[_T] | None:
    """The next one; None at the end."""
    async for event in events:
        return (event,)
    return None
