"""The bulk path: RESP spoken on a raw socket, from and into buffers that the caller owns.

redis-py copies every payload at least twice; at a megabyte a value that copying, not the server,
is the cost. So connections are opened by redis-py, which knows URLs,
authentication, TLS and databases, and payloads then go through the socket it opened.

A value costs one system call each way: the kernel gathers it from, and scatters it to, all of its
buffers, and waits for all of it by itself (`MSG_WAITALL`; time limits are the kernel's, because
a limit of Python's makes the socket non-blocking). The call that receives a value also brings its
line end and the next value's length. TLS sockets can do neither and go piece by piece.
Protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from state_store.errors import StoreUnavailable

WINDOW_BYTES = 8 << 20
"""Most payload under way on one connection, sent and not acknowledged or asked for and not
received: two of the largest parts, so that the server always has the next one to work on, and
neither end ever has to hold more."""

_WINDOW_REQUESTS = 1024  # few enough that their replies fit any socket's buffer
_SMALL_BYTES = 1 << 20  # the largest value that is returned instead of received into buffers
_LINE_BUFFER = 1 << 16
_LINE_BYTES = 64  # read before a large value: what comes with its length is copied once more
_LARGE_BYTES = 1 << 14
_REPLY_BYTES = 4  # of the shortest reply: `:1` and a line end
_VECTOR = 1024  # buffers in one system call (IOV_MAX)


class Pieces(NamedTuple):
    """One value in memory: its buffers in turn, uint8 each, and their bytes together."""

    views: Sequence[memoryview]
    size: int


class Request(NamedTuple):
    """One command as it is sent, and where its answer goes; see `command`.

    head, tail:    what comes before and after the payload
    value:         payload that is sent, without a copy
    into:          buffers that a GET fills in turn; None: the reply is returned
    payload_bytes: on the wire, one way or the other, beside a few small words
    """

    head: bytes
    value: Pieces | None = None
    tail: bytes = b""
    into: Pieces | None = None
    payload_bytes: int = 0


def command(name: bytes, key: bytes, *options: bytes, value: Pieces | None = None) -> Request:
    """`NAME key [value] [option ...]`. Options are remembered: few different ones should be."""
    if value is not None:
        opening = _opening(name, 3 + len(options))
        head = b"%b%d\r\n%b\r\n$%d\r\n" % (opening, len(key), key, value.size)
        return Request(head, value, b"\r\n" + _words(options), None, value.size)
    opening = _opening(name, 2 + len(options))
    head = b"%b%d\r\n%b\r\n%b" % (opening, len(key), key, _words(options))
    return Request(head)


def get(key: bytes, into: Pieces) -> Request:
    """`GET key` into buffers."""
    head = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)
    return Request(head, None, b"", into, into.size)


class Refusal(NamedTuple):
    """An error reply. It does not disturb the replies before and after it."""

    text: str

    @property
    def code(self) -> str:
        return self.text.partition(" ")[0]


Reply = int | bytes | None | Refusal


class BulkConnection:
    """One connection. Not thread-safe; unusable after StoreUnavailable."""

    def __init__(self, connection: Any, *, timeout: float) -> None:
        """connection: of redis-py, connected, speaking protocol 2: it has no pushed messages,
        which could come between two replies.
        timeout: seconds without progress after which an operation gives up.
        """
        self._connection = connection
        self._socket: socket.socket = connection._sock
        self._secure = isinstance(self._socket, ssl.SSLSocket)
        self._timeout = timeout
        if self._secure:
            self._socket.settimeout(timeout)
        else:
            self._socket.settimeout(None)
            limit = struct.pack("ll", int(timeout), max(1, int(timeout % 1 * 1e6)))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._lines = bytearray(_LINE_BUFFER)
        self._buffer = memoryview(self._lines)
        self._start = self._end = 0

    def close(self) -> None:
        self._connection.disconnect()

    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        """Send all requests, at most a window of them ahead of their replies.

        A GET into buffers answers with the value's size, or None if the key does not exist. A
        value that is larger than its buffers together is read to its end and thrown away; a
        smaller one fills them from the front.
        """
        replies: list[Reply] = []
        sent = under_way = 0
        for done, request in enumerate(requests):
            if sent < len(requests) and (
                sent == done
                or (under_way <= WINDOW_BYTES // 2 and sent - done <= _WINDOW_REQUESTS // 2)
            ):
                first = sent
                while sent < len(requests) and (
                    sent == done
                    or (
                        under_way + requests[sent].payload_bytes <= WINDOW_BYTES
                        and sent - done < _WINDOW_REQUESTS
                    )
                ):
                    under_way += requests[sent].payload_bytes
                    sent += 1
                self._send(requests[first:sent])
            following = sent - done - 1
            after = requests[done + 1].into if following else None
            certain = 0 if after is None else min(_REPLY_BYTES * following, len(_head(after.size)))
            into = request.into
            if into is not None and self._received(into, certain):
                replies.append(into.size)
            else:
                replies.append(self._reply(into, certain))
            under_way -= request.payload_bytes
        return replies

    def _send(self, requests: Sequence[Request]) -> None:
        vector: list[bytes | memoryview] = []
        small: list[bytes] = []
        for request in requests:
            small.append(request.head)
            if request.value is not None:
                vector.append(b"".join(small))
                vector += request.value.views
                small = [request.tail]
        vector.append(b"".join(small))
        try:
            self._send_vector([piece for piece in vector if piece])
        except (BlockingIOError, TimeoutError) as error:
            raise self._silent() from error
        except OSError as error:
            raise StoreUnavailable(
                f"the store broke off while being written to: {error}"
            ) from error

    def _send_vector(self, vector: list[bytes | memoryview]) -> None:
        """Like `sendall`, whose time limit would be for all of the data: much takes long."""
        at = 0
        while at < len(vector):
            if self._secure:
                count = self._socket.send(vector[at])
            else:
                count = self._socket.sendmsg(vector[at : at + _VECTOR])
            at = _advance(vector, at, count)

    def _received(self, into: Pieces, certain: int) -> bool:
        """Receive a value that is as large as expected, and of which no more than its first line
        is buffered: by one system call. False, and nothing is done, if it is not so.

        certain: bytes that are sure to follow, which may be waited for
        """
        head = _head(into.size)
        views = into.views
        if (
            self._end - self._start != len(head)
            or not self._lines.startswith(head, self._start)
            or len(views) >= _VECTOR
        ):
            return False
        end = 2 + certain
        pieces = [*views, self._buffer[:end]]
        count = self._receive(pieces)
        if count != into.size + end:
            self._receive_rest(pieces, count, into.size + end)
        self._end = end
        self._end_value(0)
        return True

    def _reply(self, into: Pieces | None, certain: int) -> Reply:
        large = into is not None and into.size >= _LARGE_BYTES
        line = self._line(_LINE_BYTES if large else _LINE_BUFFER)
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            return Refusal(rest.decode("utf-8", "replace"))
        if kind == b"_" or line == b"$-1":
            return None
        if kind == b"$":
            return self._value(int(rest), into, certain)
        if into is None and kind == b"+":
            return rest
        if into is None and kind == b":":
            return int(rest)
        raise StoreUnavailable(f"unexpected reply {line[:40]!r}; the connection is given up.")

    def _value(self, size: int, into: Pieces | None, certain: int) -> Reply:
        if into is None:
            if size > _SMALL_BYTES:
                self._skip(size)
                return Refusal(f"a value of {size} bytes stands where a small one belongs")
            small = bytearray(size)
            self._receive_value([memoryview(small)], size, certain)
            return bytes(small)
        if size > into.size:
            self._skip(size)
        elif size == into.size:
            self._receive_value(into.views, size, certain)
        else:
            pieces, rest = [], size
            for view in into.views:
                pieces.append(view[:rest])
                rest -= len(pieces[-1])
            self._receive_value(pieces, size, certain)
        return size

    def _receive_value(self, views: Sequence[memoryview], size: int, certain: int) -> None:
        """A value and its line end: what is buffered, then the socket with no copy between.

        The call that completes the value also brings its line end and what is `certain` to follow.
        """
        pieces, at = [*views, self._buffer[: 2 + certain]], 0
        if buffered := min(size, self._end - self._start):
            at = self._take(pieces, buffered)
        if buffered < size:  # and so nothing is buffered any more
            self._start, self._end = 0, 2 + certain
            self._receive_rest(pieces[at:], 0, size - buffered + self._end)
        while self._end - self._start < 2:
            self._read_ahead(_LINE_BYTES)
        self._end_value(self._start)

    def _receive_rest(self, pieces: list[memoryview], count: int, size: int) -> None:
        """What is missing of `size` bytes after the first `count`."""
        at = _advance(pieces, 0, count)
        while count < size:
            more = self._receive(pieces[at : at + _VECTOR])
            count += more
            at = _advance(pieces, at, more)

    def _end_value(self, at: int) -> None:
        """Behind the line end of a value."""
        if not self._lines.startswith(b"\r\n", at):
            raise StoreUnavailable("a reply of the store is malformed; the connection is given up.")
        self._start = at + 2

    def _take(self, pieces: list[memoryview], count: int) -> int:
        """Move `count` buffered bytes into the first pieces; where `pieces` goes on."""
        at = 0
        while count:
            taken = min(len(pieces[at]), count)
            pieces[at][:taken] = self._buffer[self._start : self._start + taken]
            self._start += taken
            count -= taken
            at = _advance(pieces, at, taken)
        return at

    def _skip(self, size: int) -> None:
        scratch = memoryview(bytearray(min(size, _LINE_BUFFER)))
        while size > len(scratch):
            count = min(len(scratch), self._end - self._start)
            if count:
                self._start += count
            else:
                count = self._receive([scratch])
            size -= count
        self._receive_value([scratch[:size]], size, 0)

    def _line(self, most: int) -> bytes:
        """The next line, without its end. Reads up to `most` bytes ahead."""
        while True:
            end = self._lines.find(b"\r\n", self._start, self._end)
            if end >= 0:
                line = bytes(self._buffer[self._start : end])
                self._start = end + 2
                return line
            self._read_ahead(most)

    def _read_ahead(self, most: int) -> None:
        """Buffer what is there, `most` bytes of it at most."""
        if self._start:
            kept = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(kept)] = kept
            self._start, self._end = 0, len(kept)
        if self._end == len(self._buffer):
            raise StoreUnavailable("a reply line of the store is too long.")
        free = self._buffer[self._end :]
        self._end += self._receive([free[:most]], wait=False)

    def _receive(self, targets: list[memoryview], *, wait: bool = True) -> int:
        """Fill `targets`, or as much as comes; without `wait` whatever is there."""
        try:
            if self._secure:
                count = self._socket.recv_into(targets[0])
            elif wait:
                count = self._socket.recvmsg_into(targets, 0, socket.MSG_WAITALL)[0]
            else:
                count = self._socket.recv_into(targets[0])
        except (BlockingIOError, TimeoutError) as error:
            raise self._silent() from error
        except OSError as error:
            raise StoreUnavailable(f"the store broke off while being read: {error}") from error
        if count == 0:
            raise StoreUnavailable("the store closed the connection.")
        return count

    def _silent(self) -> StoreUnavailable:
        return StoreUnavailable(f"the store did not answer within {self._timeout:g} s.")


def _advance(vector: list[Any], at: int, count: int) -> int:
    """Where `vector` goes on after `count` bytes from `at`; a piece's rest replaces it."""
    while at < len(vector) and count >= len(vector[at]):
        count -= len(vector[at])
        at += 1
    if count:
        vector[at] = vector[at][count:]
    return at


@lru_cache
def _head(size: int) -> bytes:
    """The line that a value of `size` bytes begins with."""
    return b"$%d\r\n" % size


@lru_cache
def _opening(name: bytes, words: int) -> bytes:
    return b"*%d\r\n$%d\r\n%b\r\n$" % (words, len(name), name)


@lru_cache
def _words(words: tuple[bytes, ...]) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
