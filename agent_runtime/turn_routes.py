"""Routes that generate: a session's turns, and conversations that are sent whole.

They stream server-sent events: those of `events.py`, and `error` if the turn ends with one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from agent_runtime.conversations import Conversations
from agent_runtime.errors import TorporError
from agent_runtime.events import TurnEvent, encoded, sent
from agent_runtime.models import ConversationRequest, EngineSlots, TurnRequest, TurnResult
from agent_runtime.service.metrics import Metrics
from agent_runtime.status import problem_of
from agent_runtime.turns import Turns
from engine.errors import EngineError
from state_store.errors import StoreError

router = APIRouter(prefix="/v1")


@router.post("/sessions/{session_id}/turns")
async def turn(http: Request, session_id: str, request: TurnRequest) -> StreamingResponse:
    turns: Turns = http.app.state.turns
    return await _streamed(http, turns.run(session_id, request))


@router.post("/conversations")
async def converse(http: Request, request: ConversationRequest) -> StreamingResponse:
    conversations: Conversations = http.app.state.conversations
    return await _streamed(http, conversations.run(request))


@router.get("/scheduling")
async def scheduling(http: Request) -> list[EngineSlots]:
    turns: Turns = http.app.state.turns
    return turns.admission.status()


async def _streamed(http: Request, events: AsyncGenerator[TurnEvent]) -> StreamingResponse:
    counted = _counted(http.app.state.metrics, events)
    first = await anext(counted)  # errors before the first token get their own status
    return StreamingResponse(_stream(first, counted), media_type="text/event-stream")


async def _counted(
    metrics: Metrics, events: AsyncGenerator[TurnEvent]
) -> AsyncGenerator[TurnEvent]:
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, TurnResult):
                metrics.turn(event)
            yield event


async def _stream(first: TurnEvent, rest: AsyncGenerator[TurnEvent]) -> AsyncIterator[str]:
    try:
        # Closed even if the client goes away, so that the lease is given back at once.
        async with contextlib.aclosing(rest):
            yield encoded(first)
            async for event in rest:
                yield encoded(event)
    except (TorporError, EngineError, StoreError) as error:
        yield sent("error", problem_of(error))
