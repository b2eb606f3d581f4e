"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from agent_runtime.models import Problem

# Where clients look for a code or status of OpenAI's own; all other codes are ours.
AS_OPENAI = {
    "invalid_request": (400, "invalid_request"),
    "context_full": (400, "context_length_exceeded"),
    "unauthorized": (401, "invalid_api_key"),
    "rate_limited": (429, "rate_limit_exceeded"),
    "unsupported": (400, "unsupported_parameter"),
}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def told(problem: Problem) -> tuple[int, dict[str, Any]]:
    """Status and body; the body is also what a stream says when it ends with an error."""
    status, code = AS_OPENAI.get(problem.code, (problem.status, problem.code))
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    error = {"message": problem.detail, "type": kind, "param": problem.param, "code": code}
    return status, {"error": error}
