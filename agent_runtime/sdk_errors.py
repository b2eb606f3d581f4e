"""What the clients of the runtime raise."""

from __future__ import annotations

import httpx

from agent_runtime.errors import TorporError
from agent_runtime.models import Problem

_PASSING = (429, 503)  # HTTP status: too much to do, or something is away
_PAUSE, _LONGEST_PAUSE = 0.5, 60.0  # seconds before the second attempt, and before any


class ApiError(TorporError):
    """The service answered with a problem document.

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
    try:
        problem = Problem.model_validate(response.json())
    except ValueError:
        problem = Problem(
            title="Unexpected answer",
            status=response.status_code,
            code="unexpected",
            detail=response.text[:500],
        )
    wait = response.headers.get("Retry-After")
    return ApiError(problem, retry_after=None if wait is None else float(wait))


def passes(error: ApiError | ApiUnreachable) -> bool:
    """Whether the same request may be answered a little later."""
    if isinstance(error, ApiUnreachable):
        return True
    return error.status in _PASSING or error.code == "still_running"


def pause_before(error: ApiError | ApiUnreachable, attempt: int) -> float:
    """Seconds to wait for before a further attempt; attempt: from 1"""
    wanted = error.retry_after if isinstance(error, ApiError) else None
    return min(wanted or _PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)


def unreachable(url: object, error: Exception) -> ApiUnreachable:
    return ApiUnreachable(f"the runtime at {url} does not answer: {error or type(error).__name__}")
