"""The bulk path: RESP spoken on a raw socket, from and into buffers that the caller owns.

redis-py copies every payload at least twice; at a megabyte a value that copying, not the server,
is the cost (`torpor bench store`). So connections are opened by redis-py, which knows URLs,
authentication, TLS and databases, and payloads then go through the socket it opened.
Protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from state_store.errors import StoreRefused, StoreUnavailable

_LINE_BUFFER = 1 << 16


class BulkConnection:
    """One connection. Not thread-safe; unusable after StoreUnavailable."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """timeout: seconds without progress after which an operation gives up."""
        try:
            # Protocol 2 has no pushed messages, which could come between two replies.
            pool = redis.ConnectionPool.from_url(
                url, protocol=2, socket_timeout=timeout, socket_connect_timeout=timeout
            )
            connection: Any = pool.make_connection()
        except ValueError as error:  # its text may quote a piece of the password
            raise StoreUnavailable(
                f"{public_url(url)!r} is not a Redis URL; use redis://, rediss:// or unix://."
            ) from error
        try:
            connection.connect()
        except (AuthenticationError, ResponseError) as error:
            raise StoreRefused(f"{public_url(url)} refused the login: {error}") from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"cannot connect to {public_url(url)}: {error}") from error
        self._connection = connection
        self._socket: socket.socket = connection._sock
        self._socket.settimeout(timeout)
        self._lines = bytearray(_LINE_BUFFER)
        self._buffer = memoryview(self._lines)
        self._start = self._end = 0

    def close(self) -> None:
        self._connection.disconnect()

    def send(self, *arguments: bytes | Sequence[memoryview]) -> None:
        """Send one command; an argument given in pieces goes out without being copied."""
        small: list[bytes] = [b"*%d\r\n" % len(arguments)]
        for argument in arguments:
            if isinstance(argument, bytes):
                small.append(b"$%d\r\n%b\r\n" % (len(argument), argument))
                continue
            small.append(b"$%d\r\n" % sum(map(len, argument)))
            self._send(b"".join(small))
            for piece in argument:
                self._send(piece)
            small = [b"\r\n"]
        self._send(b"".join(small))

    def send_all(self, commands: Sequence[Sequence[bytes]]) -> None:
        """Send many small commands in one write."""
        parts = []
        for command in commands:
            parts.append(b"*%d\r\n" % len(command))
            for argument in command:
                parts.append(b"$%d\r\n%b\r\n" % (len(argument), argument))
        self._send(b"".join(parts))

    def read(self) -> int | bytes | None:
        """The reply to a command that answers with a status, an integer or a small value.

        Raises StoreRefused for an error reply; the connection stays usable.
        """
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"-":
            raise StoreRefused(f"the store refused a command: {rest.decode('utf-8', 'replace')}")
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            value = bytearray(size)
            self._fill(memoryview(value))
            self._end_of_value()
            return bytes(value)
        if kind == b"_":
            return None
        raise StoreUnavailable(f"unexpected reply {line[:40]!r}; the connection is given up.")

    def read_into(self, targets: Sequence[memoryview]) -> int | None:
        """Receive a GET reply straight into `targets`, one after the other.

        Returns the value's size, None if the key does not exist. A value that is larger than
        all `targets` together is read to its end and thrown away; a smaller one fills them from
        the front. Raises StoreRefused for an error reply.
        """
        line = self._line()
        if line[:1] == b"-":
            raise StoreRefused(f"the store refused a read: {line[1:].decode('utf-8', 'replace')}")
        if line == b"_" or line == b"$-1":
            return None
        if line[:1] != b"$":
            raise StoreUnavailable(f"unexpected reply {line[:40]!r}; the connection is given up.")
        size = int(line[1:])
        if size > sum(map(len, targets)):
            self._skip(size)
        else:
            rest = size
            for target in targets:
                part = target[:rest]
                self._fill(part)
                rest -= len(part)
        self._end_of_value()
        return size

    def _send(self, data: bytes | memoryview) -> None:
        """Like `sendall`, whose timeout would be for all of the data: a state can take longer."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._socket.send(rest) :]
        except OSError as error:
            raise StoreUnavailable(
                f"the store broke off while being written to: {error}"
            ) from error

    def _line(self) -> bytes:
        while True:
            end = self._lines.find(b"\r\n", self._start, self._end)
            if end >= 0:
                line = bytes(self._buffer[self._start : end])
                self._start = end + 2
                return line
            if self._start:
                kept = bytes(self._buffer[self._start : self._end])
                self._buffer[: len(kept)] = kept
                self._start, self._end = 0, len(kept)
            if self._end == len(self._buffer):
                raise StoreUnavailable("a reply line of the store is too long.")
            self._end += self._receive(self._buffer[self._end :])

    def _fill(self, target: memoryview) -> None:
        """Fill `target` from what is buffered, then from the socket with no copy between."""
        have = min(len(target), self._end - self._start)
        target[:have] = self._buffer[self._start : self._start + have]
        self._start += have
        while have < len(target):
            have += self._receive(target[have:])

    def _skip(self, size: int) -> None:
        scratch = memoryview(bytearray(min(size, _LINE_BUFFER)))
        while size:
            part = scratch[: min(size, len(scratch))]
            self._fill(part)
            size -= len(part)

    def _end_of_value(self) -> None:
        if self._line():
            raise StoreUnavailable("a reply of the store is malformed; the connection is given up.")

    def _receive(self, target: memoryview) -> int:
        try:
            count = self._socket.recv_into(target)
        except OSError as error:
            raise StoreUnavailable(f"the store broke off while being read: {error}") from error
        if count == 0:
            raise StoreUnavailable("the store closed the connection.")
        return count


def public_url(url: str) -> str:
    """`url` without its password, for messages and logs."""
    url = re.sub(r"([?&]password=)[^&#]*", r"\1***", url)
    before, at, after = url.rpartition("@")
    if not at:
        return url
    scheme, separator, user = before.partition("://")
    return f"{scheme}{separator}{user.partition(':')[0]}:***@{after}"
