"""Errors as Anthropic's clients read them."""

from __future__ import annotations

from typing import Any

from agent_runtime.models import Problem
from agent_runtime.service.request_ids import current_request_id

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_STATUS = {422: 400}  # what is no request is a 400 there


def told(problem: Problem) -> tuple[int, dict[str, Any]]:
    """Status and body. `code` in it is ours, and finer than `type`."""
    status = _STATUS.get(problem.status, problem.status)
    other = "invalid_request_error" if status < 500 else "api_error"
    error = {
        "type": _TYPES.get(status, other),
        "message": problem.detail,
        "code": problem.code,
    }
    return status, {"type": "error", "error": error, "request_id": current_request_id()}
