"""Answers as server-sent events: those of `events.py`, and `error` if it ends with one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import Request
from fastapi.responses import StreamingResponse

from agent_runtime.errors import ClientGone, TorporError
from agent_runtime.events import Event, encoded, sent
from agent_runtime.status import problem_of
from engine.errors import EngineError
from state_store.errors import StoreError

MEDIA_TYPE = "text/event-stream"


async def streamed(http: Request, events: AsyncGenerator[Event]) -> StreamingResponse:
    first = await _first(http, events)  # errors before the first event get their own status
    return StreamingResponse(_stream(first, events), media_type=MEDIA_TYPE)


async def _first(http: Request, events: AsyncGenerator[Event]) -> Event:
    """The first event. A turn whose client goes away before it is ended."""
    first = asyncio.ensure_future(anext(events))
    gone = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({first, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            raise ClientGone("the client has gone before the first token; the turn was ended.")
        return first.result()
    finally:
        for waiting in (gone, first):
            waiting.cancel()
        await asyncio.wait({gone, first})


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _stream(first: Event, rest: AsyncGenerator[Event]) -> AsyncIterator[str]:
    try:
        # Closed even if the client goes away, so that the lease is given back at once.
        async with contextlib.aclosing(rest):
            yield encoded(first)
            async for event in rest:
                yield encoded(event)
    except (TorporError, EngineError, StoreError) as error:
        yield sent("error", problem_of(error))
