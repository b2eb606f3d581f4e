"""What the clients of the runtime raise."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from agent_runtime.errors import TorporError
from agent_runtime.wire.problems import Problem
from engine.retry_after import seconds_until

_Model = TypeVar("_Model", bound=BaseModel)

_PASSING = (429, 503)  # HTTP status: too much to do, or something is away
_PAUSE, _LONGEST_PAUSE = 0.5, 60.0  # seconds before the second attempt, and before any


class ApiError(TorporError):
    """The service answered with a problem document, or what is between answered in its place.

    code: of the problem; `unexpected` for an answer that is none of the service's
    retry_after: seconds after which the service wants to be asked again, None if it did not say
    """

    def __init__(self, problem: Problem, *, retry_after: float | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.retry_after = retry_after
        self.code = problem.code
        self.status = problem.status


class ApiUnreachable(TorporError):
    """No answer from the service: not started, stopped, or cut off in the middle."""

    code = "unreachable"


def api_error(response: httpx.Response) -> ApiError:
    """Of an answer that is not what was asked for."""
    wait = seconds_until(response.headers.get("Retry-After"))
    try:
        problem = Problem.model_validate(response.json())
    except ValueError:
        return _unexpected(response.text, response.status_code, wait)
    return ApiError(problem, retry_after=wait)


def json_of(response: httpx.Response) -> Any:
    """What was answered. Raises ApiError if it is no JSON."""
    return parsed(response.text)


def parsed(text: str) -> Any:
    """Raises ApiError for what is no JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise _unexpected(text) from error


def read(kind: type[_Model], answer: Any) -> _Model:
    """What was answered, as what it is to be. Raises ApiError if it is not."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise _unexpected(json.dumps(answer)) from error


def rows_of(answer: Any) -> list[Any]:
    """Raises ApiError for what is no list."""
    if not isinstance(answer, list):
        raise _unexpected(json.dumps(answer))
    return answer


def passes(error: ApiError | ApiUnreachable) -> bool:
    """Whether the same request may be answered a little later."""
    if isinstance(error, ApiUnreachable):
        return True
    passing = error.status in _PASSING and error.code != "quota_exceeded"
    return passing or error.code == "still_running"


def pause_before(error: ApiError | ApiUnreachable, attempt: int) -> float:
    """Seconds to wait for before a further attempt; attempt: from 1"""
    wanted = error.retry_after if isinstance(error, ApiError) else None
    return min(wanted or _PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)


def unreachable(url: object, error: Exception) -> ApiUnreachable:
    return ApiUnreachable(f"the runtime at {url} does not answer: {error or type(error).__name__}")


def _unexpected(text: str, status: int = 502, wait: float | None = None) -> ApiError:
    """status: 502 for an answer that pretends to be good"""
    problem = Problem(
        title="Unexpected answer", status=status, code="unexpected", detail=text[:500]
    )
    return ApiError(problem, retry_after=wait)
