"""In which form an error is told: as a problem document, or as a protocol's own clients read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


_SHARED = "/v1/models"  # which both kinds of clients ask


def shape_of(path: str, *, anthropic_client: bool = False) -> Shape | None:
    """Of a request's path and all below it; None for problem documents.

    anthropic_client: whether it has `anthropic-version`
    """
    if anthropic_client and (path == _SHARED or path.startswith(_SHARED + "/")):
        return anthropic.told
    return next(
        (shape for root, shape in _SHAPES.items() if path == root or path.startswith(root + "/")),
        None,
    )
