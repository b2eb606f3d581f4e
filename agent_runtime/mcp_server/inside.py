"""The service as its own client: requests go through all of its middleware, and over no network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from starlette.types import ASGIApp, Message


class Inside(httpx.AsyncBaseTransport):
    """Hands on what the service sends as it comes, which httpx's own transport does not."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        """headers: of every request, besides its own"""
        self._app = app
        self._headers = headers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers.update(self._headers)
        exchange = _Exchange(await request.aread())
        served = asyncio.ensure_future(self._app(_scope(request), exchange.receive, exchange.send))
        beginning = asyncio.ensure_future(exchange.began.wait())
        try:
            await asyncio.wait({served, beginning}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await exchange.end(served)
            raise
        finally:
            beginning.cancel()
        if not exchange.began.is_set():
            await exchange.end(served)
            raise httpx.RemoteProtocolError("the service ended without an answer")
        return httpx.Response(
            exchange.status, headers=exchange.headers, stream=_Pieces(exchange, served)
        )


class _Exchange:
    """One request, as the service sees it."""

    def __init__(self, body: bytes) -> None:
        self.began = asyncio.Event()
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._body: bytes | None = body
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
            self.began.set()
            return
        if body := message.get("body", b""):
            self.pieces.put_nowait(body)
        if not message.get("more_body", False):
            self.pieces.put_nowait(None)

    async def end(self, served: asyncio.Future[Any]) -> None:
        """As a client that goes away; the service ends what it was doing."""
        self._gone.set()
        # What it failed with is in its log, and was told as its answer.
        with contextlib.suppress(Exception):
            await served


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, exchange: _Exchange, served: asyncio.Future[Any]) -> None:
        self._exchange = exchange
        self._served = served
        served.add_done_callback(lambda _: exchange.pieces.put_nowait(None))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._exchange.pieces.get()) is not None:
            yield piece

    async def aclose(self) -> None:
        await self._exchange.end(self._served)


def _scope(request: httpx.Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "query_string": request.url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": None,
        "server": (request.url.host, request.url.port),
    }
