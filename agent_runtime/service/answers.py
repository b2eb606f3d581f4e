"""What went wrong, as problem details (RFC 9457) with a stable `code`, for every kind of error."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from agent_runtime.errors import HeadMoved, TorporError
from agent_runtime.http.request_ids import current_request_id
from agent_runtime.http.status import UNFORESEEN, layer_of, problem_of
from agent_runtime.service.shapes import shape_of
from agent_runtime.wire.problems import Problem
from engine.errors import EngineError
from state_store.errors import StoreError
from tools.errors import ToolsError

logger = logging.getLogger(__name__)

# What Starlette itself refuses, by status.
_CODES = {400: "malformed_body", 404: "no_such_path", 405: "method_not_allowed"}

# OpenAI's and Anthropic's clients repeat every 409, 429 and 5xx unless they are told not to.
_NOT_REPEATED = {"cancelled", "internal", "no_messages", "quota_exceeded", "vault_locked"}
_TOLD = 20  # flaws of one request
# The names of types that pydantic has tried, and where FastAPI found what it read.
_NOT_FIELDS = {"body", "query", "path", "header", "str", "int", "float", "bool", "dict", "list"}


def add_to(app: FastAPI) -> None:
    """Have `app` answer errors so."""
    for error_type in (TorporError, EngineError, StoreError, ToolsError):
        app.add_exception_handler(error_type, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_refused)
    app.add_exception_handler(Exception, _answer_unforeseen)


def problem_response(
    problem: Problem, headers: dict[str, str] | None = None, *, scope: Scope
) -> Response:
    """As who sent the request reads it: see `shapes.py`."""
    if problem.code in _NOT_REPEATED:
        headers = {**(headers or {}), "x-should-retry": "false"}
    shape = shape_of(scope)
    if shape is not None:
        status, body = shape(problem)
        return JSONResponse(body, status_code=status, headers=headers)
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type="application/problem+json",
    )


async def _answer_ours(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    request.app.state.metrics.error(layer_of(error), problem.code)
    if problem.code == HeadMoved.code and "if-match" in request.headers:
        problem = problem.model_copy(update={"status": 412})
    if problem.status >= 500:
        logger.error("%s %s: %s", request.method, request.url.path, error)
    wait = getattr(error, "retry_after", None)
    headers = {} if wait is None else {"Retry-After": f"{wait:.0f}"}
    return problem_response(problem, headers, scope=request.scope)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if found[0]["type"] == "json_invalid":
        place, flaw = found[0]["loc"][-1], found[0]["ctx"]["error"]
        detail = f"the body is no JSON at its character {place}: {flaw}; nothing was done."
        problem = Problem(title="Malformed body", status=400, code="malformed_body", detail=detail)
        return problem_response(problem, scope=request.scope)
    told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found[:_TOLD]]
    if len(found) > _TOLD:
        told.append(f"and {len(found) - _TOLD} more")
    return problem_response(
        Problem(
            title="Invalid request",
            status=422,
            code="invalid_request",
            detail="; ".join(told),
            param=_field(found[0]["loc"]),
        ),
        scope=request.scope,
    )


def _field(place: Sequence[str | int]) -> str | None:
    """A part of a request, as in `messages[0].content`."""
    path = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in _NOT_FIELDS:
            path += f".{part}" if path else part
    return path or None


async def _answer_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "refused")
    detail = f"{request.method} {request.url.path}: {error.detail}"
    problem = Problem(title=error.detail, status=error.status_code, code=code, detail=detail)
    return problem_response(problem, dict(error.headers or {}), scope=request.scope)


async def _answer_unforeseen(request: Request, error: Exception) -> Response:
    request_id = current_request_id()
    return problem_response(
        UNFORESEEN,
        # Answered outside of all middleware.
        {} if request_id is None else {"X-Request-Id": request_id},
        scope=request.scope,
    )
