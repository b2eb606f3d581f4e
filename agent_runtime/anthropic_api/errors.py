"""Errors as Anthropic's clients read them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from agent_runtime.errors import ContextFull
from agent_runtime.http.document import Responses, problems
from agent_runtime.http.request_ids import current_request_id
from agent_runtime.wire.problems import Problem

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}
_STATUS = {422: 400}  # what is no request is a 400 there
_TOO_LONG = ContextFull.code  # a prompt, which is a 400 there too; 413 is a body that is too large


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorDetails(_Wire):
    """error_code: ours, stable, and finer than `type`"""

    error_code: str


class ErrorObject(_Wire):
    type: str
    message: str
    details: ErrorDetails


class ErrorBody(_Wire):
    """request_id: also in the header `request-id`"""

    type: Literal["error"] = "error"
    error: ErrorObject
    request_id: str | None


def documented(*trees: type[Exception]) -> Responses:
    """As `document.problems`, in this form."""
    found: Responses = {}
    for status, told_so in problems(*trees).items():
        other = _STATUS.get(int(status), int(status))
        description = told_so["description"]
        if other in found:
            description = found[other]["description"] + "; " + description
        found[other] = {"model": ErrorBody, "description": description}
    return found


def told(problem: Problem) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    status = 400 if problem.code == _TOO_LONG else _STATUS.get(problem.status, problem.status)
    other = "invalid_request_error" if status < 500 else "api_error"
    error = ErrorObject(
        type=_TYPES.get(status, other),
        message=problem.detail,
        details=ErrorDetails(error_code=problem.code),
    )
    return status, ErrorBody(error=error, request_id=current_request_id()).model_dump()
