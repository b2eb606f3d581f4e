"""The MCP server at `/mcp` of the service, over streamable HTTP.

A call's requests are made with the key that the call came with, so that it may do what the key may.
Nothing is kept between calls: any runtime can answer each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agent_runtime.http.request_ids import current_request_id
from agent_runtime.mcp_server.inside import Inside
from agent_runtime.mcp_server.server import make_server
from agent_runtime.sdk import Torpor
from agent_runtime.settings import RuntimeSettings

PATH = "/mcp"
_CREDENTIALS = ("authorization", "x-api-key")


# It tells of every call at INFO, and requests are logged by who serves them.
logging.getLogger("mcp.server").setLevel(logging.WARNING)


class Mounted:
    """Use `running` for as long as the service runs."""

    def __init__(self, app: FastAPI, settings: RuntimeSettings) -> None:
        self._app = app
        self._settings = settings
        self._server = make_server(self._connect)
        self._manager: StreamableHTTPSessionManager | None = None
        app.router.routes.append(Route(PATH, endpoint=self, methods=["POST"]))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        manager = StreamableHTTPSessionManager(
            self._server,
            stateless=True,
            max_request_body_size=self._settings.body_limits.bytes,
        )
        ready, over = asyncio.Event(), asyncio.Event()

        async def run() -> None:
            async with manager.run():
                ready.set()
                await over.wait()

        # Its task group is bound to one task, and a service may be started and ended in two.
        task = asyncio.create_task(run())
        await ready.wait()
        self._manager = manager
        try:
            yield
        finally:
            over.set()
            await task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._manager is not None, "requests come while the service runs"
        await self._manager.handle_request(scope, receive, send)

    def _connect(self) -> Torpor:
        """A client of the service, as whoever sent the call that is being answered."""
        request = self._server.request_context.request
        assert request is not None, "a call over HTTP came with a request"
        # A name that every service answers to: the call itself came in by one.
        return Torpor("http://localhost", transport=Inside(self._app, _carried(request)))


def _carried(request: Request) -> dict[str, str]:
    """Headers that the requests of a call have from it."""
    sent = {name: request.headers[name] for name in _CREDENTIALS if name in request.headers}
    request_id = current_request_id()
    return sent if request_id is None else sent | {"x-request-id": request_id}
