"""Every request has an id: the client's `X-Request-Id` or a new one, in the answer and the log."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FIT = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def current_request_id() -> str | None:
    """Of the request that is being served; None outside of any."""
    return _current.get()


class RequestIds:
    """ASGI middleware: sets the id for the length of the request, and answers with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = dict(scope["headers"]).get(b"x-request-id", b"")
        # Anything else could forge lines of a log.
        request_id = asked.decode() if _FIT.fullmatch(asked) else f"req-{uuid.uuid4().hex}"
        _current.set(request_id)

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The second is where Anthropic's clients look.
                named = [(name, request_id.encode()) for name in (b"x-request-id", b"request-id")]
                message["headers"] = [*message.get("headers", []), *named]
            await send(message)

        await self._app(scope, receive, naming)


class JsonLines(logging.Formatter):
    """Log records as lines of JSON: time, level, logger, message, and the request's id."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": current_request_id(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
