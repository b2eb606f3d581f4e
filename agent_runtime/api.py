"""The HTTP service. Its routes are in the modules `*_routes.py`.

Errors are problem details (RFC 9457) with a stable `code`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from agent_runtime import holding_routes, session_routes, turn_routes
from agent_runtime.chat import ChatFormat
from agent_runtime.conversations import Conversations
from agent_runtime.errors import TorporError
from agent_runtime.holding import Holding
from agent_runtime.models import Problem
from agent_runtime.residency import Residency
from agent_runtime.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.stateless import Stateless
from agent_runtime.status import problem_of
from agent_runtime.turns import Turns
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
            app.state.holding = Holding(store, pool, app.state.turns, residency)
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
    for routes in (session_routes, holding_routes, turn_routes):
        app.include_router(routes.router)

    @app.get("/health")
    async def health() -> dict[str, object]:
        records = await app.state.pool.records()
        served = records or settings.model_dir is None
        status = "ok" if served else "no engine"
        model = None if settings.backend is None else settings.backend.model
        return {"status": status, "engines": len(records), "backend": model}

    return app


async def _recover(store: StateStore, older_than: float) -> None:
    try:
        recovered = await store.recover(older_than=older_than)
        logger.info("recovered: %s", recovered)
    except StoreError as error:
        logger.error("recovery is left to the next start of a runtime: %s", error)


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
