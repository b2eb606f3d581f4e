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

import itertools
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

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
_SURE = 3  # replies that are together as long as the first line of any value, which has 12 bytes
_VECTOR = 1024  # buffers in one system call (IOV_MAX)
_SECURE_BYTES = 1 << 16  # given to a TLS socket at once


Value = memoryview | Sequence[memoryview]
"""One value in memory, uint8: gathered from, or scattered to, one buffer or several."""


Item = tuple[bytes, bytes | Value]
"""A key and its value: what is stored, or the buffers that are filled in turn."""

Payload = Literal["sent", "received"]


class Command(NamedTuple):
    """What is done with each key of a batch; see `command`.

    opening: all that comes before the key's length; all there is, if there is no key
    closing: all that comes after the key, or after the value's last byte
    payload: which way values go; None: there are none
    """

    opening: bytes
    closing: bytes
    payload: Payload | None = None
    keyless: bool = False


def command(name: bytes, *words: bytes, payload: Payload | None = None) -> Command:
    """`NAME key [value] [word ...]`. A value that is received goes into its buffers; without
    `payload` the reply is returned."""
    count = 2 + len(words) + (payload == "sent")
    opening = b"*%d\r\n$%d\r\n%b\r\n$" % (count, len(name), name)
    closing = b"\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    return Command(opening, closing, payload)


def keyless(name: bytes) -> Command:
    """A command of one word."""
    return Command(b"*1\r\n$%d\r\n%b\r\n" % (len(name), name), b"", keyless=True)


def byte_count(value: bytes | Value) -> int:
    return _pieces(value)[1]


class Refusal(NamedTuple):
    """An error reply. It does not disturb the replies before and after it."""

    text: str

    @property
    def code(self) -> str:
        return self.text.partition(" ")[0]


Reply = int | bytes | None | Refusal

Came = Callable[[int, Sequence[Reply]], None]
"""Told the place of the first of some items in turn, and the reply to each of them."""


_Pieces = tuple[Sequence[memoryview], int]
"""A value's buffers in turn, uint8 each, and their bytes together."""

_NOTHING: _Pieces = ((), 0)


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

    def exchange(
        self, commands: Sequence[Command], items: Sequence[Item], came: Came | None = None
    ) -> list[Reply]:
        """Send all commands for each item, at most a window of items ahead of their replies.

        Items are made into commands as they are sent: the server works on those before meanwhile.
        At most one command has a payload, and one that receives it is the last one. A GET into
        buffers answers with the value's size, or None if the key does not exist. A value that is
        larger than its buffers together is read to its end and thrown away; a smaller one fills
        them from the front.

        came: of a GET into buffers, told of values that have come, about half a window at a time:
        the server has the other half to send meanwhile. What it raises makes the connection
        unusable
        """
        payload = next((one.payload for one in commands if one.payload), None)
        most = max(1, _WINDOW_REQUESTS // len(commands))  # items under way
        pieces: list[_Pieces] = []  # of items that were sent
        replies: list[Reply] = []
        done = under_way = 0
        while done < len(items):
            first = len(pieces)
            for _, value in itertools.islice(items, first, done + most):
                piece = _NOTHING if payload is None else _pieces(value)
                if under_way + piece[1] > WINDOW_BYTES and len(pieces) > done:
                    break
                pieces.append(piece)
                under_way += piece[1]
            sent = len(pieces)
            self._send(commands, items[first:sent], pieces[first:])
            if sent == len(items) and (came is None or 2 * under_way <= WINDOW_BYTES):
                until = sent
            else:
                until, under_way = done + 1, under_way - pieces[done][1]
            while until < sent and (2 * under_way > WINDOW_BYTES or 2 * (sent - until) > most):
                under_way -= pieces[until][1]
                until += 1
            if payload == "received":
                new = len(replies)
                self._receive_values(pieces, done, until, replies, others=len(commands) - 1)
                if came is not None:
                    came(done, replies[new + len(commands) - 1 :: len(commands)])
            else:
                replies += [self._reply() for _ in range((until - done) * len(commands))]
            done = until
        return replies

    def _send(
        self, commands: Sequence[Command], items: Sequence[Item], pieces: Sequence[_Pieces]
    ) -> None:
        vector: list[bytes | memoryview] = []
        small: list[bytes] = []
        for (key, _), (views, size) in zip(items, pieces, strict=True):
            for opening, closing, payload, alone in commands:
                if alone:
                    small.append(opening)
                elif payload == "sent":
                    small.append(b"%b%d\r\n%b\r\n$%d\r\n" % (opening, len(key), key, size))
                    vector.append(b"".join(small))
                    vector += views
                    small = [closing]
                else:
                    small.append(b"%b%d\r\n%b%b" % (opening, len(key), key, closing))
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
        """Like `sendall`, whose time limit would be for all of the data: much takes long. TLS
        sockets have one for all that they are given, too."""
        at = 0
        while at < len(vector):
            if self._secure:
                count = self._socket.send(vector[at][:_SECURE_BYTES])
            else:
                count = self._socket.sendmsg(vector[at : at + _VECTOR])
            at = _advance(vector, at, count)

    def _receive_values(
        self,
        pieces: Sequence[_Pieces],
        first: int,
        until: int,
        replies: list[Reply],
        *,
        others: int,
    ) -> None:
        """The replies from `first` to `until`; of those behind them only what is sure to come.

        others: replies to other commands that come before each value
        """
        at = first
        while at < until:
            if not others:
                at = self._receive_expected(pieces, at, until, replies)
            if at < until:
                replies += [self._reply() for _ in range(others)]
                following = 0 if others else len(pieces) - at - 1
                certain = len(_head(pieces[at + 1][1])) if following else 0
                replies.append(self._reply(pieces[at], min(certain, _REPLY_BYTES * following)))
                at += 1

    def _receive_expected(
        self, pieces: Sequence[_Pieces], at: int, until: int, replies: list[Reply]
    ) -> int:
        """Receive values that are as large as their buffers, by one system call each, as long as
        nothing but the next one's first line is buffered. Where that ends."""
        head, first, stop = _head(pieces[at][1]), at, min(until, len(pieces) - _SURE)
        if (
            self._secure
            or at >= stop
            or self._end - self._start != len(head)
            or not self._lines.startswith(head, self._start)
        ):
            return at
        known, ending, line = -1, b"", self._buffer[:0]
        for (views, size), (_, expected) in zip(
            pieces[first:stop], pieces[first + 1 : stop + 1], strict=True
        ):
            if len(views) >= _VECTOR:
                break
            if expected != known:
                known, ending = expected, b"\r\n" + _head(expected)
                line = self._buffer[: len(ending)]
            count = self._receive((*views, line))
            if count != size + len(ending):
                self._receive_rest([*views, line], count, size + len(ending))
            at += 1
            self._start, self._end = 2, len(ending)
            if not self._lines.startswith(ending):  # another reply than expected follows
                self._end_value(0)
                break
        replies += [size for _, size in pieces[first:at]]
        return at

    def _reply(self, into: _Pieces | None = None, certain: int = 0) -> Reply:
        """certain: bytes that are sure to follow a value, which may be waited for"""
        large = into is not None and into[1] >= _LARGE_BYTES
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

    def _value(self, size: int, into: _Pieces | None, certain: int) -> Reply:
        if into is None:
            if size > _SMALL_BYTES:
                self._skip(size)
                return Refusal(f"a value of {size} bytes stands where a small one belongs")
            small = bytearray(size)
            self._receive_value([memoryview(small)], size, certain)
            return bytes(small)
        views, room = into
        if size > room:
            self._skip(size)
        elif size == room:
            self._receive_value(views, size, certain)
        else:
            pieces, rest = [], size
            for view in views:
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

    def _receive(self, targets: Sequence[memoryview], *, wait: bool = True) -> int:
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


def _pieces(value: bytes | Value) -> _Pieces:
    if isinstance(value, memoryview):
        return (value if value.format == "B" else value.cast("B"),), value.nbytes
    if isinstance(value, bytes):
        return (memoryview(value),), len(value)
    views = [view if view.format == "B" else view.cast("B") for view in value]
    return views, sum(map(len, views))


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
