"""A small HTTP server in front of an endpoint: passes requests on, or answers as a test says."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx


@dataclass
class Scripted:
    """One answer. `length`: what Content-Length claims, so that the stream can be cut short;
    `after`: is waited for before it is given, all of it but what it `begins` with."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    length: int | None = None
    after: threading.Event | None = None
    begins: str = ""


def event(delta: dict[str, Any] | None = None, **more: Any) -> str:
    """One event of a stream; `finish_reason`, `usage` and `error` as in the protocol."""
    chunk: dict[str, Any] = {"model": "scripted"}
    finish_reason = more.pop("finish_reason", None)
    if delta is not None or finish_reason is not None:
        chunk["choices"] = [{"delta": delta or {}, "finish_reason": finish_reason}]
    return f"data: {json.dumps(chunk | more)}\n\n"


USAGE = event(usage={"prompt_tokens": 9, "completion_tokens": 2})
DONE = "data: [DONE]\n\n"


class Endpoint:
    """Serves until `close`. `scripted` answers come first; `seen` holds (headers, body)."""

    def __init__(self, upstream: str | None = None, *, always: Scripted | None = None) -> None:
        """upstream: URL that other requests are passed on to; always: or how they are answered"""
        self.always = always
        self.scripted: list[Scripted] = []
        self.seen: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.upstream = upstream
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/chat/completions"
                endpoint.seen.append((dict(self.headers), json.loads(sent)))
                if endpoint.scripted:
                    self._answer(endpoint.scripted.pop(0))
                elif endpoint.always is not None:
                    self._answer(endpoint.always)
                else:
                    self._pass_on(sent)

            def _answer(self, answer: Scripted) -> None:
                if answer.after is not None and not answer.begins:
                    answer.after.wait(60)
                begins, body = answer.begins.encode(), answer.body.encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                length = answer.length or len(begins) + len(body)
                self.send_header("Content-Length", str(length))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody waits
                    self.end_headers()
                    self.wfile.write(begins)
                    if answer.after is not None and begins:
                        answer.after.wait(60)
                    self.wfile.write(body)
                self.close_connection = True

            def _pass_on(self, sent: bytes) -> None:
                answer = httpx.post(
                    f"{endpoint.upstream}/chat/completions",
                    content=sent,
                    headers={"Content-Type": "application/json"},
                    timeout=120,
                    trust_env=False,
                )
                kind = answer.headers["Content-Type"]
                self._answer(Scripted(answer.text, answer.status_code, {"Content-Type": kind}))

            def log_message(self, *_: object) -> None:
                pass

        return Handler
