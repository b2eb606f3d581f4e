"""Routes that generate: a session's turns, and conversations that are sent whole.

They stream server-sent events: those of `events.py`, and `error` if the turn ends with one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from agent_runtime.access.identity import current_tenant
from agent_runtime.conversations import Conversations
from agent_runtime.errors import ClientGone, TorporError
from agent_runtime.events import TurnEvent, encoded, sent
from agent_runtime.headers import Key
from agent_runtime.models import (
    Cancellation,
    ConversationRequest,
    EngineSlots,
    TurnRequest,
    TurnResult,
)
from agent_runtime.service.metrics import Metrics
from agent_runtime.status import problem_of
from agent_runtime.turns import Turns
from engine.errors import EngineError
from state_store.errors import StoreError

router = APIRouter(prefix="/v1")


@router.post("/sessions/{session_id}/turns")
async def turn(
    http: Request, session_id: str, request: TurnRequest, key: Key = None
) -> StreamingResponse:
    return await _streamed(http, _turns(http).run(session_id, request, key=key))


@router.post("/sessions/{session_id}/turns/resume")
async def resume(http: Request, session_id: str) -> StreamingResponse:
    return await _streamed(http, _turns(http).resume(session_id))


@router.post("/sessions/{session_id}/cancel")
async def cancel(http: Request, session_id: str) -> Cancellation:
    return await _turns(http).cancel(session_id)


@router.post("/conversations")
async def converse(
    http: Request, request: ConversationRequest, key: Key = None
) -> StreamingResponse:
    conversations: Conversations = http.app.state.conversations
    return await _streamed(http, conversations.run(request, key=key))


def _turns(http: Request) -> Turns:
    turns: Turns = http.app.state.turns
    return turns


@router.get("/scheduling")
async def scheduling(http: Request) -> list[EngineSlots]:
    """Of the tenants that wait, a key sees its own only."""
    turns: Turns = http.app.state.turns
    engines = turns.admission.status()
    tenant = current_tenant("")
    if not tenant:
        return engines
    return [
        slots.model_copy(update={"waiting": {tenant: slots.waiting.get(tenant, 0)}})
        for slots in engines
    ]


async def _streamed(http: Request, events: AsyncGenerator[TurnEvent]) -> StreamingResponse:
    counted = _counted(http.app.state.metrics, events)
    first = await _first(http, counted)  # errors before the first token get their own status
    return StreamingResponse(_stream(first, counted), media_type="text/event-stream")


async def _counted(
    metrics: Metrics, events: AsyncGenerator[TurnEvent]
) -> AsyncGenerator[TurnEvent]:
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, TurnResult):
                metrics.turn(event)
            yield event


async def _first(http: Request, events: AsyncGenerator[TurnEvent]) -> TurnEvent:
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


async def _stream(first: TurnEvent, rest: AsyncGenerator[TurnEvent]) -> AsyncIterator[str]:
    try:
        # Closed even if the client goes away, so that the lease is given back at once.
        async with contextlib.aclosing(rest):
            yield encoded(first)
            async for event in rest:
                yield encoded(event)
    except (TorporError, EngineError, StoreError) as error:
        yield sent("error", problem_of(error))
