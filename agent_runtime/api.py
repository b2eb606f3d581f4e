"""The HTTP service: sessions and streamed turns.

Errors are problem details (RFC 9457) with a stable `code`. A turn streams server-sent events:
`text` pieces as they are generated, then one `result` (a TurnResult), or one `error`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from agent_runtime.chat import ChatFormat
from agent_runtime.conversations import Conversations
from agent_runtime.errors import TorporError
from agent_runtime.models import (
    ConversationRequest,
    CreateSession,
    Forked,
    ForkRequest,
    Problem,
    Resumed,
    ResumeRequest,
    SessionView,
    SnapshotView,
    Suspended,
    SuspendRequest,
    TurnRequest,
    TurnResult,
    Whereabouts,
)
from agent_runtime.residency import Residency
from agent_runtime.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.stateless import Stateless
from agent_runtime.status import problem_of
from agent_runtime.turns import Text, Turns
from engine.backends.chat import Backend
from engine.errors import EngineError
from engine.pool import EnginePool
from state_store.errors import StoreError
from state_store.store import StateStore

logger = logging.getLogger(__name__)


def create_app(settings: RuntimeSettings) -> FastAPI:
    """The service over one store and the engines registered in it."""
    chat = None if settings.model_dir is None else ChatFormat(settings.model_dir)
    backend = None if settings.backend is None else Backend(settings.backend)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with await StateStore.connect(
            settings.redis_url, prefix=settings.prefix, archive=settings.archive_url
        ) as store:
            pool, residency = EnginePool(store, router=settings.router), Residency()
            app.state.store, app.state.pool = store, pool
            stateless = Stateless(store, backend, only=chat is None)
            app.state.turns = Turns(store, pool, chat, residency, settings, stateless)
            app.state.sessions = Sessions(store, pool, app.state.turns, residency, settings)
            app.state.conversations = Conversations(
                store, pool, app.state.sessions, app.state.turns, settings
            )
            # Not waited for: the whole archive is listed.
            recovering = asyncio.create_task(_recover(store, settings.lease_ttl * 2))
            yield
            recovering.cancel()
            await asyncio.wait([recovering])
            await app.state.turns.close()
            await pool.close()
            if backend is not None:
                await backend.close()

    app = FastAPI(title="Torpor", version="0.1.0", lifespan=lifespan)
    for error_type in (TorporError, EngineError, StoreError):
        app.add_exception_handler(error_type, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    _routes(app, settings)
    return app


async def _recover(store: StateStore, older_than: float) -> None:
    try:
        recovered = await store.recover(older_than=older_than)
        logger.info("recovered: %s", recovered)
    except StoreError as error:
        logger.error("recovery is left to the next start of a runtime: %s", error)


def _routes(app: FastAPI, settings: RuntimeSettings) -> None:
    @app.get("/health")
    async def health() -> dict[str, object]:
        records = await app.state.pool.records()
        served = records or settings.model_dir is None
        backend = None if settings.backend is None else settings.backend.model
        status = "ok" if served else "no engine"
        return {"status": status, "engines": len(records), "backend": backend}

    @app.post("/v1/sessions", status_code=201)
    async def create(request: CreateSession) -> SessionView:
        return await _sessions(app).create(request)

    @app.get("/v1/sessions")
    async def list_sessions() -> list[SessionView]:
        return await _sessions(app).all()

    @app.get("/v1/sessions/{session_id}")
    async def get(session_id: str) -> SessionView:
        return await _sessions(app).get(session_id)

    @app.get("/v1/sessions/{session_id}/snapshots")
    async def snapshots(session_id: str) -> list[SnapshotView]:
        return await _sessions(app).snapshots(session_id)

    @app.get("/v1/sessions/{session_id}/residency")
    async def residency(session_id: str) -> Whereabouts:
        return await _sessions(app).whereabouts(session_id)

    @app.post("/v1/sessions/{session_id}/suspend")
    async def suspend(session_id: str, request: SuspendRequest) -> Suspended:
        return await _sessions(app).suspend(session_id, request)

    @app.post("/v1/sessions/{session_id}/resume")
    async def resume(session_id: str, request: ResumeRequest) -> Resumed:
        return await _sessions(app).resume(session_id, request)

    @app.post("/v1/sessions/{session_id}/fork", status_code=201)
    async def fork(session_id: str, request: ForkRequest) -> Forked:
        return await _sessions(app).fork(session_id, request)

    @app.delete("/v1/sessions/{session_id}", status_code=204)
    async def delete(session_id: str) -> Response:
        await _sessions(app).delete(session_id)
        return Response(status_code=204)

    @app.post("/v1/sessions/{session_id}/turns")
    async def turn(session_id: str, request: TurnRequest) -> StreamingResponse:
        return await _streamed(app.state.turns.run(session_id, request))

    @app.post("/v1/conversations")
    async def converse(request: ConversationRequest) -> StreamingResponse:
        return await _streamed(app.state.conversations.run(request))


def _sessions(app: FastAPI) -> Sessions:
    sessions: Sessions = app.state.sessions
    return sessions


async def _streamed(events: AsyncGenerator[Text | TurnResult]) -> StreamingResponse:
    first = await anext(events)  # errors before the first token get their own status
    return StreamingResponse(_stream(first, events), media_type="text/event-stream")


async def _stream(
    first: Text | TurnResult, rest: AsyncGenerator[Text | TurnResult]
) -> AsyncIterator[str]:
    try:
        # Closed even if the client goes away, so that the lease is given back at once.
        async with contextlib.aclosing(rest):
            yield _event(first)
            async for event in rest:
                yield _event(event)
    except (TorporError, EngineError, StoreError) as error:
        yield _sse("error", problem_of(error))


def _event(event: Text | TurnResult) -> str:
    if isinstance(event, Text):
        return f"event: text\ndata: {json.dumps({'text': event.text})}\n\n"
    return _sse("result", event)


def _sse(name: str, body: BaseModel) -> str:
    return f"event: {name}\ndata: {body.model_dump_json()}\n\n"


async def _answer_error(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem.status >= 500:
        logger.error("%s %s: %s", request.method, request.url.path, error)
    wait = getattr(error, "retry_after", None)
    return _problem_response(problem, {} if wait is None else {"Retry-After": f"{wait:.0f}"})


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    detail = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return _problem_response(
        Problem(title="Invalid request", status=422, code="invalid_request", detail=detail)
    )


def _problem_response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(
        problem.model_dump(),
        status_code=problem.status,
        headers=headers,
        media_type="application/problem+json",
    )
