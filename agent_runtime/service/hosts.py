"""Which names a service without keys answers to.

Only this machine reaches it, and a page that a browser here shows must not be taken for it: a
foreign name may be made to point at 127.0.0.1 (DNS rebinding), and then the browser lets the page
read the answers. It sends the name all the same, as `Host` and as `Origin`.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from agent_runtime.service.answers import problem_response
from agent_runtime.wire.problems import Problem


class Hosts:
    """ASGI middleware: requests for, or from pages of, another host are refused."""

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        """allowed: names without ports, in small letters"""
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
            return
        answer = problem_response(problem, {"Connection": "close"}, scope=scope)
        await answer(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if _name(f"//{host}") not in self._allowed:
            return Problem(
                title="Host refused",
                status=421,
                code="host_refused",
                detail=f"without keys this service does not answer as {host[:80]!r}; nothing was "
                "done. Ask it at 127.0.0.1 or localhost, or name the host in allowed_hosts.",
            )
        origin = headers.get(b"origin")
        if origin is not None and _name(origin.decode("latin-1")) not in self._allowed:
            return Problem(
                title="Origin refused",
                status=403,
                code="origin_refused",
                detail="without keys this service answers no page of another host; nothing was "
                "done. Ask for keys, or name the page's host in allowed_hosts.",
            )
        return None


def _name(url: str) -> str | None:
    """The host of a URL, without its port; None if it has none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
