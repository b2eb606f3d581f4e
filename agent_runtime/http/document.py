"""What the OpenAPI document says of answers that are no JSON, and of every way to be refused.

Which status an error has is decided in `status.py`; here it is only read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from agent_runtime.errors import ClientGone, Forbidden, RateLimited, Unauthorized
from agent_runtime.http.status import status_and_code
from agent_runtime.wire.problems import Problem

Responses = dict[int | str, dict[str, Any]]
"""As FastAPI's `responses` takes them."""

_AT_THE_EDGE = {
    400: ("malformed_body", "too_deep"),
    403: ("origin_refused",),
    408: ("body_timeout",),
    413: ("body_too_large",),
    415: ("unsupported_media_type",),
    421: ("host_refused",),
    422: ("invalid_request",),
    500: ("internal",),
}
"""Of `hosts.py`, `bodies.py` and `answers.py`, which need no error for them."""


_OF_KEYS: tuple[type[Exception], ...] = (Unauthorized, Forbidden, RateLimited)


def problems(*trees: type[Exception]) -> Responses:
    """Every status, with its codes, of a route that raises errors of these trees.

    What every request passes through is always among them.
    """
    return {status: one_problem(status, *codes) for status, codes in codes_of(*trees).items()}


def codes_of(*trees: type[Exception]) -> dict[int, set[str]]:
    """The same, by status."""
    codes: dict[int, set[str]] = defaultdict(set)
    for status, named in _AT_THE_EDGE.items():
        codes[status].update(named)
    for tree in (*_OF_KEYS, *trees):
        for kind in _kinds(tree):
            if kind is not ClientGone:  # nobody is left to be told
                status, code = status_and_code(kind)
                codes[status].add(code)
    return {status: codes[status] for status in sorted(codes)}


def one_problem(status: int, *codes: str) -> dict[str, Any]:
    """A status with the codes that come with it."""
    named = ", ".join(f"`{code}`" for code in sorted(codes))
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {
        "description": f"{HTTPStatus(status).phrase}: {named}",
        "content": {"application/problem+json": {"schema": schema}},
    }


def content(media_type: str, says: str) -> dict[str, Any]:
    """An answer, or a request's body, whose bytes are of this type."""
    schema = {"type": "string", "format": "binary", "description": says}
    return {"content": {media_type: {"schema": schema}}}


def _kinds(tree: type[Exception]) -> Iterator[type[Exception]]:
    yield tree
    for kind in tree.__subclasses__():
        if kind.__module__ == tree.__module__:
            yield from _kinds(kind)
