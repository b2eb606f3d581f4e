"""Answers as server-sent events: those of `wire/events.py`, and `error` if it ends with one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from agent_runtime.caller.standing import while_admitted
from agent_runtime.errors import ClientGone, TorporError
from agent_runtime.http.metrics import Metrics
from agent_runtime.http.status import UNFORESEEN, layer_of, problem_of
from agent_runtime.wire.events import Event, encoded, sent
from agent_runtime.wire.problems import Problem
from agent_runtime.wire.residency import Resumed
from agent_runtime.wire.turns import TurnResult
from engine.errors import EngineError
from state_store.errors import StoreError
from tools.errors import ToolsError

logger = logging.getLogger(__name__)

_Some = TypeVar("_Some")


class EventStream(StreamingResponse):
    media_type: str = "text/event-stream"


async def streamed(http: Request, events: AsyncGenerator[Event]) -> EventStream:
    return await streamed_as(http, _encoded(events), lambda problem: sent("error", problem))


async def streamed_as(
    http: Request, pieces: AsyncGenerator[str], failed: Callable[[Problem], str]
) -> EventStream:
    """Server-sent events that are written already; failed: what is said of an error behind the
    first piece."""
    first = await first_of(http, pieces)  # errors before it get their own status
    return EventStream(_stream(http, first, pieces, failed))


async def first_of(http: Request, events: AsyncGenerator[_Some]) -> _Some:
    """The first event. A turn whose client goes away before it is ended: ClientGone."""
    return await _unless_gone(http, anext(events))


async def last_of(http: Request, events: AsyncGenerator[_Some]) -> _Some:
    """The last event, which is a turn's result. A turn whose client goes away is ended, and raises
    ClientGone."""

    async def last() -> _Some:
        async with contextlib.aclosing(events):
            *_, found = [event async for event in events]
        return found

    return await _unless_gone(http, last())


async def counted(http: Request, events: AsyncGenerator[_Some]) -> AsyncGenerator[_Some]:
    """The events of a turn or a resume, whose result is counted in the service's metrics. It is
    ended when the key of its request is over."""
    async with contextlib.aclosing(counted_in(http.app.state.metrics, events)) as told:
        async for event in told:
            yield event


async def counted_in(metrics: Metrics, events: AsyncGenerator[_Some]) -> AsyncGenerator[_Some]:
    """As `counted`, of a turn that may be nobody's request."""
    async with contextlib.aclosing(while_admitted(events)) as admitted:
        async for event in admitted:
            if isinstance(event, TurnResult):
                metrics.turn(event)
            elif isinstance(event, Resumed):
                metrics.resumed(event)
            yield event


def counted_problem(metrics: Metrics, error: Exception) -> Problem:
    """Of an error that ends an answer which has begun; one that nobody foresaw is in the log."""
    ours = isinstance(error, (TorporError, EngineError, StoreError, ToolsError))
    if not ours:
        logger.error("an answer is cut short: %r", error, exc_info=error)
    problem = problem_of(error) if ours else UNFORESEEN
    metrics.error(layer_of(error), problem.code)
    return problem


async def _unless_gone(http: Request, wanted: Awaitable[_Some]) -> _Some:
    working = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the client has gone before the answer; the turn was ended.")
        return working.result()
    finally:
        for waiting in (gone, working):
            waiting.cancel()
        await asyncio.wait({gone, working})


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _encoded(events: AsyncGenerator[Event]) -> AsyncGenerator[str]:
    async with contextlib.aclosing(events):
        async for event in events:
            yield encoded(event)


async def _stream(
    http: Request, first: str, rest: AsyncGenerator[str], failed: Callable[[Problem], str]
) -> AsyncIterator[str]:
    try:
        # Closed even if the client goes away, so that the lease is given back at once.
        async with contextlib.aclosing(rest):
            yield first
            async for piece in rest:
                yield piece
    except Exception as error:
        yield failed(counted_problem(http.app.state.metrics, error))
