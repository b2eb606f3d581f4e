"""In which form an error is told: as a problem document, or as a protocol's own clients read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import Scope

from agent_runtime.anthropic_api import errors as anthropic
from agent_runtime.openai_api import errors as openai
from agent_runtime.wire.problems import Problem

Shape = Callable[[Problem], tuple[int, dict[str, Any]]]
"""Status and JSON body."""

_SHAPES: dict[str, Shape] = {
    "/v1/messages": anthropic.told,
    "/v1/chat/completions": openai.told,
    "/v1/models": openai.told,
    "/v1/responses": openai.told,
    "/v1/conversations": openai.told,
    **dict.fromkeys(openai.NOT_SERVED, openai.told),
}


_SHARED = "/v1/models"  # which both kinds of clients ask; Anthropic's say so by a header


def shape_of(scope: Scope) -> Shape | None:
    """Of a request's path and all below it; None for problem documents."""
    path = scope["path"]
    is_shared = path == _SHARED or path.startswith(_SHARED + "/")
    if is_shared and b"anthropic-version" in dict(scope["headers"]):
        return anthropic.told
    return next(
        (shape for root, shape in _SHAPES.items() if path == root or path.startswith(root + "/")),
        None,
    )
