"""Routes that generate: a session's turns, and conversations that are sent whole.

They stream server-sent events: see `streaming.py`.
"""

from __future__ import annotations

from fastapi import APIRouter, Request

from agent_runtime.caller.identity import current_tenant, is_operator
from agent_runtime.errors import TorporError
from agent_runtime.http.document import problems
from agent_runtime.http.etags import MOVED, Match, held_to
from agent_runtime.http.headers import Key
from agent_runtime.http.streaming import EventStream, counted, streamed
from agent_runtime.sessions.conversations import Conversations
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.scheduling import EngineSlots
from agent_runtime.wire.turns import Cancellation, ConversationRequest, TurnRequest
from engine.errors import EngineError
from state_store.errors import StoreError

router = APIRouter(prefix="/v1", responses=problems(TorporError, StoreError, EngineError))


@router.post("/sessions/{session_id}/turns", response_class=EventStream, responses=MOVED)
async def turn(
    http: Request, session_id: str, request: TurnRequest, match: Match, key: Key = None
) -> EventStream:
    held = held_to(request, match)
    return await streamed(http, counted(http, _turns(http).run(session_id, held, key=key)))


@router.post("/sessions/{session_id}/turns/resume", response_class=EventStream)
async def resume(http: Request, session_id: str) -> EventStream:
    return await streamed(http, counted(http, _turns(http).resume(session_id)))


@router.post("/sessions/{session_id}/cancel")
async def cancel(http: Request, session_id: str) -> Cancellation:
    return await _turns(http).cancel(session_id)


@router.post("/converse", response_class=EventStream)
async def converse(http: Request, request: ConversationRequest, key: Key = None) -> EventStream:
    conversations: Conversations = http.app.state.conversations
    return await streamed(http, counted(http, conversations.run(request, key=key)))


def _turns(http: Request) -> Turns:
    turns: Turns = http.app.state.turns
    return turns


@router.get("/scheduling")
async def scheduling(http: Request) -> list[EngineSlots]:
    """Of the tenants that wait, a tenant's key sees its own only."""
    turns: Turns = http.app.state.turns
    engines = turns.admission.status()
    tenant = current_tenant("")
    if not tenant or is_operator():
        return engines
    return [
        slots.model_copy(update={"waiting": {tenant: slots.waiting.get(tenant, 0)}})
        for slots in engines
    ]
