"""Limits of what a request brings: its type, its size, how long it takes, and how deep it nests.

They are looked at before a route, and before anything is parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_runtime.errors import BodyTimeout
from agent_runtime.service.answers import problem_response
from agent_runtime.service.json_values import flaw_of
from agent_runtime.service.nesting import is_within
from agent_runtime.settings import BodyLimits
from agent_runtime.wire.problems import Problem

_LARGE = 1 << 16  # bytes that are looked at in a thread, so that others need not wait for the loop
_BODILESS = {"GET", "HEAD", "OPTIONS"}


class Bodies:
    """ASGI middleware: a JSON body is read whole, looked at, and handed on.

    Other types are refused, but on the paths in `streamed`, where everything passes as it comes;
    who reads it there gets BodyTimeout when it does not come. Where no body belongs, in a request
    that only reads and on the paths in `open_to_all`, one is not read, and the connection is closed
    behind the answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: BodyLimits,
        *,
        streamed: Collection[str] = ("/v1/import",),
        open_to_all: Collection[str] = (),
    ) -> None:
        self._app = app
        self._limits = limits
        self._streamed = streamed
        self._open_to_all = open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] in self._streamed:
            await self._app(scope, self._coming(receive), send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length == b"0" and b"transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        if scope["method"] in _BODILESS or scope["path"] in self._open_to_all:
            await self._app(scope, _handing(b"", receive), _closing(send))
            return
        problem = self._of_headers(headers, length)
        body = b""
        if problem is None:
            try:
                body = await self._read(receive)
            except _Disconnected:
                return
            except TimeoutError:
                problem = _problem(
                    408, "body_timeout", f"no more of the body came in {self._limits.seconds:g} s"
                )
        if problem is None:
            problem = await self._looked_at(body)
        if problem is not None:
            headers = {"Connection": "close"}
            await problem_response(problem, headers, scope=scope)(scope, receive, send)
            return
        await self._app(scope, _handing(body, receive), send)

    def _coming(self, receive: Receive) -> Receive:
        """A `receive` that waits for each piece of the body so long."""
        is_whole = False

        async def coming() -> Message:
            nonlocal is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout(self._limits.seconds):
                    message = await receive()
            except TimeoutError:
                raise BodyTimeout(
                    f"no more of the body came in {self._limits.seconds:g} s; nothing was kept."
                ) from None
            is_whole = not message.get("more_body", False)
            return message

        return coming

    def _of_headers(self, headers: dict[bytes, bytes], length: bytes) -> Problem | None:
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json" and not kind.endswith(b"+json"):
            named = kind.decode("latin-1") or "nothing"
            return _problem(
                415, "unsupported_media_type", f"the body is {named}, not application/json"
            )
        if int(length) > self._limits.bytes:
            return self._too_large()
        return None

    async def _read(self, receive: Receive) -> bytes:
        """Up to one piece more than is allowed."""
        pieces, size = [], 0
        while True:
            async with asyncio.timeout(self._limits.seconds):
                message = await receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self._limits.bytes or not message.get("more_body", False):
                return b"".join(pieces)

    async def _looked_at(self, body: bytes) -> Problem | None:
        if len(body) < _LARGE:
            return self._of_body(body)
        return await asyncio.to_thread(self._of_body, body)

    def _of_body(self, body: bytes) -> Problem | None:
        if len(body) > self._limits.bytes:
            return self._too_large()
        try:
            body.decode()
        except UnicodeDecodeError as error:
            return _problem(400, "malformed_body", f"byte {error.start} of the body is no UTF-8")
        if not is_within(body, self._limits.depth):
            return _problem(
                400, "too_deep", f"the body nests deeper than {self._limits.depth} levels"
            )
        flaw = flaw_of(body)
        return None if flaw is None else _problem(400, "malformed_body", flaw)

    def _too_large(self) -> Problem:
        return _problem(
            413, "body_too_large", f"the body is larger than {self._limits.bytes} bytes"
        )


class _Disconnected(Exception):
    pass


def _problem(status: int, code: str, what: str) -> Problem:
    title = code.replace("_", " ").capitalize()
    return Problem(title=title, status=status, code=code, detail=f"{what}; nothing was done.")


def _handing(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body first."""
    given = False

    async def handing() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return handing


def _closing(send: Send) -> Send:
    """A `send` that has the connection closed behind the answer."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return closing
