"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections import defaultdict
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict

from agent_runtime.http.document import Responses, codes_of
from agent_runtime.wire.problems import Problem

# Where clients look for a code or status of OpenAI's own; all other codes are ours.
AS_OPENAI = {
    "invalid_request": (400, "invalid_request"),
    "context_full": (400, "context_length_exceeded"),
    "unauthorized": (401, "invalid_api_key"),
    "rate_limited": (429, "rate_limit_exceeded"),
    "unsupported": (400, "unsupported_parameter"),
}
NOT_SERVED = (
    "/v1/audio", "/v1/batches", "/v1/completions", "/v1/containers", "/v1/embeddings", "/v1/evals",
    "/v1/files", "/v1/fine_tuning", "/v1/images", "/v1/moderations", "/v1/realtime", "/v1/uploads",
    "/v1/vector_stores", "/v1/videos",
)  # fmt: skip
"""Paths of OpenAI's that are not here; its clients read of that as of all else."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class OpenAIError(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorBody(BaseModel):
    """What OpenAI's clients make their exceptions of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error: OpenAIError


def told(problem: Problem) -> tuple[int, dict[str, Any]]:
    """Status and body; the body is also what a stream says when it ends with an error."""
    status, code = _as_openai(problem.status, problem.code)
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    error = {"message": problem.detail, "type": kind, "param": problem.param, "code": code}
    return status, {"error": error}


def refusals(*trees: type[Exception]) -> Responses:
    """As `document.problems`, in this form."""
    codes: dict[int, set[str]] = defaultdict(set)
    for status, named in codes_of(*trees).items():
        for code in named:
            as_status, as_code = _as_openai(status, code)
            codes[as_status].add(as_code)
    return {
        status: {
            "model": OpenAIErrorBody,
            "description": f"{HTTPStatus(status).phrase}: "
            + ", ".join(f"`{code}`" for code in sorted(codes[status])),
        }
        for status in sorted(codes)
    }


def _as_openai(status: int, code: str) -> tuple[int, str]:
    return AS_OPENAI.get(code, (status, code))
