"""The route that tells what happens to a session, as server-sent events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request

from agent_runtime.caller.standing import while_admitted
from agent_runtime.errors import TorporError
from agent_runtime.feed.following import Followers
from agent_runtime.http.document import problems
from agent_runtime.http.status import problem_of
from agent_runtime.http.streaming import EventStream
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.wire.events import sent
from agent_runtime.wire.sessions import SessionView
from engine.errors import EngineError
from state_store.errors import StoreError

router = APIRouter(
    prefix="/v1/sessions/{session_id}", responses=problems(TorporError, StoreError, EngineError)
)

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=64, description="Go on after this event's `id`."),
]


@router.get("/events", response_class=EventStream)
async def events(http: Request, session_id: str, last_event_id: LastEventId = None) -> EventStream:
    """How the session is now, and what happens to it from now on, in whichever runtime."""
    sessions: Sessions = http.app.state.sessions
    followers: Followers = http.app.state.followers

    async def look() -> SessionView:
        return await sessions.get(session_id)

    await look()
    told = followers.follow(session_id, look, after=last_event_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return EventStream(_stream(told), headers=headers)


async def _stream(told: AsyncGenerator[str]) -> AsyncIterator[str]:
    try:
        async with contextlib.aclosing(while_admitted(told)) as admitted:
            async for text in admitted:
                yield text
    except (TorporError, EngineError, StoreError) as error:
        yield sent("error", problem_of(error))
