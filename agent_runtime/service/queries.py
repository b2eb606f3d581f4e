"""Query parameters that no route knows: refused, as unknown fields of a body are.

A mistyped filter would otherwise list everything, for a script that deletes what it lists.
"""

from __future__ import annotations

from fastapi import Request
from fastapi.dependencies.models import Dependant

from agent_runtime.errors import InvalidRequest


async def known_query(request: Request) -> None:
    """A dependency of Torpor's own routes. Clients of other protocols send what they please, such
    as Anthropic's `?beta=true`. Raises InvalidRequest."""
    if not request.query_params:
        return
    known = _known_to(request.scope["route"].dependant)
    for name in request.query_params:
        if name not in known:
            raise InvalidRequest(
                f"there is no query parameter {name!r} here; those that there are: "
                f"{', '.join(known) or 'none'}. Nothing was done.",
                param=name,
            )


def _known_to(dependant: Dependant) -> list[str]:
    """Query parameters of a route, or of what it depends on."""
    known = [field.alias for field in dependant.query_params]
    for one in dependant.dependencies:
        known += _known_to(one)
    return known
