"""One connection to an MCP server: kept up, watched, and made again when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import anyio
import httpx
from mcp import ClientSession, McpError
from mcp.client.auth import OAuthFlowError
from mcp.types import Implementation

from tools.errors import McpInterrupted, McpUnauthorized, McpUnavailable
from tools.mcp.servers import HttpServer, Stderr, StdioServer, opened
from tools.mcp.session import Session

T = TypeVar("T")

# JSON-RPC errors that the SDK itself makes: the stream ended; the server knows no such session.
_LOST = {(-32000, "Connection closed"), (32600, "Session terminated")}
_TRIES = 3


@dataclass(frozen=True)
class Patience:
    """All in seconds.

    connect:     for a connection, and for a call to wait for one that is made again
    call:        for an answer to one call of a tool
    answer:      for an answer to everything else, such as a ping
    watch:       between two pings of a connection that is not used
    busy_watch:  between two pings while an answer is waited for: where that takes long, silence is
                 no trouble, but a server that does not know us any more is
    first_pause, longest_pause: after a connection that failed; it doubles from one to the other
    """

    connect: float = 30.0
    call: float = 60.0
    answer: float = 10.0
    watch: float = 30.0
    busy_watch: float = 2.0
    first_pause: float = 0.2
    longest_pause: float = 30.0


class State(StrEnum):
    CONNECTING = "connecting"
    READY = "ready"
    UNAUTHORIZED = "unauthorized"
    CLOSED = "closed"


@dataclass(frozen=True)
class Health:
    """connections: how many were made so far; answered_in: seconds of a ping, if it is ready
    server: its name and version; trouble: why the last connection ended or was not made
    """

    state: State
    connections: int
    server: str
    trouble: str
    answered_in: float | None


@dataclass
class _Live:
    session: ClientSession
    welcome: dict[str, Any]
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0  # requests whose answers have not come, pings aside


class Connection:
    """An async context manager. name: of the server, for messages

    The SDK's session belongs to one task, so a keeper of its own has it; calls come from others.
    """

    def __init__(
        self, name: str, server: StdioServer | HttpServer, patience: Patience,
        on_notification: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._name = name
        self._server = server
        self._patience = patience
        self._on_notification = on_notification
        self._state = State.CLOSED
        self._live: _Live | None = None
        self._news = asyncio.Condition()
        self._keeper: asyncio.Task[None] | None = None
        self._connections = 0
        self._trouble = ""

    async def __aenter__(self) -> Connection:
        self._state = State.CONNECTING
        self._keeper = asyncio.create_task(self._keep(), name=f"MCP {self._name}")
        try:
            await self._ready()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._state = State.CLOSED
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    async def capabilities(self) -> dict[str, Any]:
        """What the server says it has, by name."""
        found = (await self._ready()).welcome.get("capabilities", {})
        return dict(found)

    async def request(
        self, ask: Callable[[ClientSession], Awaitable[T]], seconds: float | None
    ) -> T:
        """Ask the server on a connection that has just answered. None waits without an end.

        Raises McpError for what the server answers with an error; McpUnavailable, McpUnauthorized
        if it was not asked; McpInterrupted if it was, and the connection broke before the answer.
        """
        live = await self._answering()
        live.waiting += 1
        try:
            return await self._asked(live, ask, seconds)
        except TimeoutError as error:
            raise McpInterrupted(
                f"the MCP server {self._name} did not answer within {seconds:g} seconds"
            ) from error
        finally:
            live.waiting -= 1

    async def health(self) -> Health:
        """What is known, and a ping if there is a connection."""
        took = None
        if self._live is not None:
            started = time.monotonic()
            if await self._pinged(self._live):
                took = time.monotonic() - started
        told = self._live.welcome.get("serverInfo", {}) if self._live else {}
        server = f"{told.get('name', '')} {told.get('version', '')}".strip()
        return Health(self._state, self._connections, server, self._trouble, took)

    async def _answering(self) -> _Live:
        for _ in range(_TRIES):
            live = await self._ready()
            if await self._pinged(live):
                return live
        raise McpUnavailable(
            f"the MCP server {self._name} lets itself be connected to and does not answer; nothing "
            "was asked of it. Try again later, or do without."
        )

    async def _ready(self) -> _Live:
        """The connection, once there is one."""
        try:
            async with asyncio.timeout(self._patience.connect), self._news:
                while self._live is None:
                    if self._state is State.UNAUTHORIZED:
                        raise McpUnauthorized(
                            f"the MCP server {self._name} refuses us: {self._trouble}. Give it a "
                            "token or an auth that it takes, and connect again."
                        )
                    if self._state is State.CLOSED:
                        raise McpUnavailable(f"the MCP client of {self._name} is closed.")
                    await self._news.wait()
                return self._live
        except TimeoutError as error:
            raise McpUnavailable(
                f"the MCP server {self._name} can't be reached ({self._trouble or 'no answer'}); "
                "nothing was asked of it, and it is tried again."
            ) from error

    async def _pinged(self, live: _Live) -> bool:
        """Whether the connection holds; if not, it is given up."""
        try:
            await self._asked(live, lambda session: session.send_ping(), self._patience.answer)
        except McpError:
            return True  # an error is an answer, too
        except (McpInterrupted, TimeoutError) as error:
            if isinstance(error, TimeoutError) and live.waiting:
                return True  # it is busy with what it was asked
            live.lost.set()
            await self._gone(live)
            return False
        return True

    async def _asked(
        self, live: _Live, ask: Callable[[ClientSession], Awaitable[T]], seconds: float | None
    ) -> T:
        """Raises McpInterrupted, TimeoutError, and McpError for an answer of the server."""
        answer = asyncio.ensure_future(ask(live.session))
        lost = asyncio.ensure_future(live.lost.wait())
        try:
            done, _ = await asyncio.wait(
                {answer, lost}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if answer in done:
                return answer.result()
            if lost not in done:
                raise TimeoutError
        except McpError as error:
            if (error.error.code, error.error.message) not in _LOST:
                raise
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass
        finally:
            for task in (answer, lost):
                task.cancel()
            await asyncio.gather(answer, lost, return_exceptions=True)
        live.lost.set()
        raise McpInterrupted(f"the connection to the MCP server {self._name} broke")

    async def _gone(self, live: _Live) -> None:
        """Nobody is given this connection any more."""
        async with self._news:
            if self._live is live:
                self._live = None
                if self._state is State.READY:
                    self._state = State.CONNECTING

    async def _keep(self) -> None:
        pause = self._patience.first_pause
        while True:
            before = self._connections
            try:
                await self._connected()
            except Exception as error:  # whatever a transport raises, alone or in groups
                self._trouble, unauthorized = _reason(error)
                if unauthorized:
                    await self._tell(State.UNAUTHORIZED)
                    return
            if self._connections > before:
                pause = self._patience.first_pause
            # Not all clients of a server that comes back come at the same moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, self._patience.longest_pause)

    async def _connected(self) -> None:
        """One connection, from its beginning to its end."""
        stderr, live = Stderr(), None
        try:
            async with (
                opened(self._server, stderr) as (read, write),
                Session(
                    read, write, message_handler=self._hear,
                    client_info=Implementation(name="torpor", version="1"),
                ) as session,
            ):  # fmt: skip
                with anyio.fail_after(self._patience.connect):
                    welcome = await session.initialize()
                live = _Live(session, welcome.model_dump(by_alias=True, mode="json"))
                self._connections += 1
                self._live = live
                await self._tell(State.READY)
                await self._watch(live)
        except Exception as error:
            if stderr.last_line:
                raise ConnectionError(
                    f"{_reason(error)[0]}; it said: {stderr.last_line}"
                ) from error
            raise
        finally:
            if live is not None:
                live.lost.set()
                self._live = None
                if self._state is State.READY:
                    self._state = State.CONNECTING

    async def _watch(self, live: _Live) -> None:
        """Returns by raising, when the connection is lost."""
        every = min(self._patience.busy_watch, self._patience.watch)
        last = time.monotonic()
        while True:
            with anyio.move_on_after(every):
                await live.lost.wait()
            due = live.waiting or time.monotonic() - last >= self._patience.watch
            if live.lost.is_set() or (due and not await self._pinged(live)):
                raise ConnectionError("the connection broke, or a ping was not answered")
            if due:
                last = time.monotonic()

    async def _tell(self, state: State) -> None:
        async with self._news:
            self._state = state
            self._news.notify_all()

    async def _hear(self, message: Any) -> None:
        method = getattr(getattr(message, "root", message), "method", None)
        if isinstance(method, str):
            self._on_notification(method)


def _reason(error: BaseException) -> tuple[str, bool]:
    """Why a connection ended, in a few words, and whether that is for want of credentials."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return f"HTTP {status} {error.response.reason_phrase}", status in (401, 403)
    if isinstance(error, OAuthFlowError):  # a person may have been asked, and would be again
        return str(error), True
    return (str(error) or type(error).__name__), False
