"""Routes of sessions: create, look at, suspend, resume, fork, delete."""

from __future__ import annotations

import contextlib
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import TorporError
from agent_runtime.http.document import content, problems
from agent_runtime.http.etags import (
    MOVED,
    UNCHANGED,
    IfNoneMatch,
    Match,
    held_to,
    is_known,
    merged,
    name_head,
)
from agent_runtime.http.headers import Key, name_next
from agent_runtime.http.streaming import EventStream, counted, streamed
from agent_runtime.sessions.listing import Listing, Residency, labels_of
from agent_runtime.sessions.said import said
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.wire.messages import SaidMessage
from agent_runtime.wire.residency import (
    Resumed,
    ResumeRequest,
    Suspended,
    SuspendRequest,
    Whereabouts,
)
from agent_runtime.wire.sessions import (
    CreateSession,
    Forked,
    ForkRequest,
    LabelsRequest,
    SessionView,
    SnapshotView,
)
from engine.errors import EngineError
from state_store.errors import StoreError

router = APIRouter(prefix="/v1/sessions", responses=problems(TorporError, StoreError, EngineError))


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


Asked = Annotated[Sessions, Depends(_sessions)]
_Create = Annotated[CreateSession, Body(default_factory=CreateSession)]
_Suspend = Annotated[SuspendRequest, Body(default_factory=SuspendRequest)]
_Resume = Annotated[ResumeRequest, Body(default_factory=ResumeRequest)]
_Fork = Annotated[ForkRequest, Body(default_factory=ForkRequest)]


@router.post("", status_code=201)
async def create(
    sessions: Asked,
    response: Response,
    request: _Create,
    key: Key = None,
) -> SessionView:
    view = await sessions.create(request, key=key)
    name_head(response, view.head)
    return view


@router.get("")
async def list_sessions(
    http: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: str | None = None,
    residency: Annotated[Residency | None, Query(description="Only those there.")] = None,
    label: Annotated[
        list[str], Query(description="NAME=VALUE; only sessions with all of these labels.")
    ] = [],  # noqa: B006
) -> list[SessionView]:
    """Newest first; the `Link` header leads to the next ones, if there are any. With few matches a
    page may have fewer than `limit`, or none, although others follow."""
    listing: Listing = http.app.state.listing
    labels = labels_of(label)
    views, following = await listing.page(
        limit=limit, after=after, residency=residency, labels=labels
    )
    name_next(
        response, router.prefix, limit=limit, after=following, residency=residency, label=label
    )
    return views


@router.get("/{session_id}", response_model=SessionView, responses=UNCHANGED)
async def get(
    sessions: Asked, response: Response, session_id: str, if_none_match: IfNoneMatch = None
) -> SessionView | Response:
    """304 for a client that has it as of its head already."""
    view = await sessions.get(session_id)
    name_head(response, view.head)
    if is_known(if_none_match, view.head):
        return Response(status_code=304, headers=dict(response.headers))
    return view


@router.put("/{session_id}/labels")
async def set_labels(sessions: Asked, session_id: str, request: LabelsRequest) -> SessionView:
    """In place of those that it has. Its head is what it was."""
    return await sessions.set_labels(session_id, request.labels)


@router.get("/{session_id}/snapshots")
async def snapshots(
    sessions: Asked,
    response: Response,
    session_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="A snapshot of the history.")] = None,
) -> list[SnapshotView]:
    """The session's history, newest first; the `Link` header leads to the next ones, if there are
    any."""
    views, following = await sessions.snapshots(session_id, limit=limit, after=after)
    name_next(response, f"{router.prefix}/{session_id}/snapshots", limit=limit, after=following)
    return views


@router.get("/{session_id}/messages")
async def messages(
    http: Request,
    response: Response,
    session_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="As the `Link` header has it.")] = None,
) -> list[SaidMessage]:
    """What was said in the session's history, the newest first; the `Link` header leads to the
    next ones, if there are any."""
    state = http.app.state
    tenant = current_tenant(state.settings.tenant)
    session = await state.store.session(session_id, tenant=tenant)
    found, following = await said(state.store, state.turns, session, limit=limit, after=after)
    name_next(response, f"{router.prefix}/{session_id}/messages", limit=limit, after=following)
    return found


@router.get("/{session_id}/whereabouts")
async def whereabouts(sessions: Asked, session_id: str) -> Whereabouts:
    return await sessions.whereabouts(session_id)


@router.post("/{session_id}/suspend", responses=MOVED)
async def suspend(
    http: Request,
    sessions: Asked,
    session_id: str,
    request: _Suspend,
    match: Match,
) -> Suspended:
    done = await sessions.suspend(session_id, held_to(request, match))
    http.app.state.metrics.suspended(done)
    return done


@router.post(
    "/{session_id}/resume",
    response_model=Resumed,
    responses={200: content(EventStream.media_type, "`progress` and `result`")},
)
async def resume(
    http: Request,
    sessions: Asked,
    session_id: str,
    request: _Resume,
) -> Response:
    """Resumed; for a client that accepts server-sent events, `progress` and that as `result`."""
    events = counted(http, sessions.resuming(session_id, request))
    if EventStream.media_type in http.headers.get("accept", ""):
        return await streamed(http, events)
    async with contextlib.aclosing(events):
        *_, done = [event async for event in events]
    return JSONResponse(done.model_dump(mode="json"))


@router.post("/{session_id}/fork", status_code=201, responses=MOVED)
async def fork(
    sessions: Asked,
    response: Response,
    session_id: str,
    request: _Fork,
    match: Match,
    key: Key = None,
) -> Forked:
    forked = await sessions.fork(session_id, held_to(request, match), key=key)
    name_head(response, forked.head)
    return forked


@router.delete("/{session_id}", status_code=204, responses=MOVED)
async def delete(
    sessions: Asked, session_id: str, match: Match, expected_head: str | None = None
) -> Response:
    await sessions.delete(session_id, expected_head=merged(expected_head, match))
    return Response(status_code=204)
