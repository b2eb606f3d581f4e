"""Connections that say nothing, never end what they begin to say, or do not listen, are hung up on.

uvicorn ends a connection that is idle after an answer. One that has sent no whole head of a request
yet would be held for ever, and its file descriptor with it. So would one that does not read its
answer, and with it the turn that is being told, its lease and its slot.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
"""For the head of a request, from the connection or its first byte on. Bodies: see `bodies.py`."""


class Connection(H11Protocol):
    """One client's, in uvicorn."""

    head_seconds = HEAD_SECONDS
    unread_seconds = 60.0
    """See `ServiceSettings.unread_seconds`."""
    _hang_up: asyncio.TimerHandle | None = None
    _give_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._hang_up is None:
            self._wait_for_head()

    def pause_writing(self) -> None:
        """More waits to be read than is kept for a client."""
        super().pause_writing()
        self._wait_for_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._stop_giving_up()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_giving_up()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._hang_up = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._hang_up is not None:
            self._hang_up.cancel()
            self._hang_up = None

    def _wait_for_reader(self, unread: int) -> None:
        """unread: bytes that wait for it now"""
        self._give_up = self.loop.call_later(self.unread_seconds, self._look_again, unread)

    def _look_again(self, before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread < before:
            self._wait_for_reader(unread)
        else:  # closing it would wait until all of it is read
            self.transport.abort()

    def _stop_giving_up(self) -> None:
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None


def connections(*, unread_seconds: float) -> type[Connection]:
    """The class of a service's connections."""
    return type("Connection", (Connection,), {"unread_seconds": unread_seconds})
