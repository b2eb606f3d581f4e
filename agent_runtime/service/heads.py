"""`HEAD`: what `GET` answers, without its body."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """ASGI middleware. A route is asked as for `GET`, and ended once the headers are known: a
    stream of events has no end of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        asked, started = {**scope, "method": "GET"}, asyncio.Event()
        head: list[Message] = []

        async def keeping(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.append(message)
                started.set()

        async def answer() -> None:
            await self._app(asked, receive, keeping)

        answering = asyncio.create_task(answer())
        waiting = asyncio.create_task(started.wait())
        try:
            await asyncio.wait([answering, waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            waiting.cancel()
            await asyncio.gather(answering, waiting, return_exceptions=True)
            scope.update({**asked, "method": "HEAD"})  # which route it was
        if not head:
            await answering
            raise AssertionError("a route answers, or raises")
        await send(head[0])
        await send({"type": "http.response.body", "body": b""})
