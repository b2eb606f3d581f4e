"""Where an MCP server is, and how a connection to it is opened."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from mcp import StdioServerParameters, stdio_client
from pydantic import BaseModel, ConfigDict, SecretStr

from tools.mcp import http

_MOST_STDERR = 4096


class StdioServer(BaseModel):
    """A program that is started, and ended with the connection.

    environment: what it gets besides PATH, HOME and a few more; nothing else comes along
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    folder: Path | None = None


class HttpServer(BaseModel):
    """A server at a URL, over streamable HTTP.

    bearer:  token for the Authorization header
    headers: others to send with every request
    auth:    an httpx.Auth, such as the SDK's `OAuthClientProvider`, instead of a token
    seconds: of silence after which a request is given up
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    url: str
    bearer: SecretStr | None = None
    headers: Mapping[str, str] = {}
    auth: httpx.Auth | None = None
    seconds: float = 300.0


class Stderr(asyncio.Protocol):
    """The last of what a program says, for the message when it ends."""

    def __init__(self) -> None:
        self._said = b""

    def data_received(self, data: bytes) -> None:
        self._said = (self._said + data)[-_MOST_STDERR:]

    @property
    def last_line(self) -> str:
        lines = self._said.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


@asynccontextmanager
async def opened(
    server: StdioServer | HttpServer, stderr: Stderr
) -> AsyncIterator[tuple[Any, Any]]:
    """The streams to read from and to write to, as the SDK's session takes them."""
    if isinstance(server, StdioServer):
        async with _started(server, stderr) as streams:
            yield streams
        return
    headers = dict(server.headers)
    if server.bearer is not None:
        headers["Authorization"] = f"Bearer {server.bearer.get_secret_value()}"
    client = httpx.AsyncClient(
        headers=headers, auth=server.auth, timeout=httpx.Timeout(30.0, read=server.seconds)
    )
    async with client, http.streams(client, server.url) as both:
        yield both


@asynccontextmanager
async def _started(server: StdioServer, stderr: Stderr) -> AsyncIterator[tuple[Any, Any]]:
    parameters = StdioServerParameters(
        command=server.command,
        args=list(server.arguments),
        env=dict(server.environment),
        cwd=server.folder,
    )
    heard, said = os.pipe()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: stderr, os.fdopen(heard, "rb", buffering=0)
    )
    try:
        with os.fdopen(said, "w") as errlog:
            async with stdio_client(parameters, errlog=errlog) as streams:
                yield streams
    finally:
        transport.close()
