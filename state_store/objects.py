"""Bulk reads and writes of stored objects, blocking, for the threads of an engine's linker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from state_store.errors import StoreRefused, StoreUnavailable
from state_store.resp import BulkConnection

_T = TypeVar("_T")
_EXISTS_BATCH = 512


Value = memoryview | Sequence[memoryview]
"""One value in memory, uint8: gathered from, or scattered to, one buffer or several."""


class ObjectClient:
    """One pipelined connection, reopened once when it breaks. Thread-safe, one operation a time.

    Every operation raises StoreUnavailable when the store does not answer and StoreRefused when
    it refuses; writes are idempotent, so the caller may simply repeat them.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._connection: BulkConnection | None = None
        self._lock = threading.Lock()

    def ping(self) -> None:
        self._run(lambda connection: _ask(connection, b"PING"))

    def close(self) -> None:
        with self._lock:
            self._drop()

    def put(self, items: Sequence[tuple[bytes, Value]], *, ttl: int) -> None:
        """Store sealed frames that expire after `ttl` seconds unless a commit pins them.

        An object that is already there stays as it is, with at least `ttl` to live.
        """

        def write(connection: BulkConnection) -> None:
            seconds = b"%d" % ttl
            for key, value in items:
                connection.send(b"SET", key, _pieces(value), b"NX", b"EX", seconds)
                connection.send(b"EXPIRE", key, seconds, b"GT")
            _collect([connection.read] * (2 * len(items)))

        self._run(write)

    def replace(self, items: Sequence[tuple[bytes, Value]], *, ttl: int) -> None:
        """Overwrite objects that were found corrupt; pins and expiry stay as they are."""

        def write(connection: BulkConnection) -> None:
            for key, value in items:
                connection.send(b"SET", key, _pieces(value), b"XX", b"KEEPTTL")
            _collect([connection.read] * len(items))

        self._run(write)
        self.put(items, ttl=ttl)

    def get_into(self, items: Sequence[tuple[bytes, Value]]) -> list[int | None]:
        """Read each key into its buffers; the sizes of the stored values, None for no such key.

        A value that is larger than its buffers together is skipped: they hold garbage then, as
        they do past the end of a smaller one.
        """

        def read(connection: BulkConnection) -> list[int | None]:
            connection.send_all([(b"GET", key) for key, _ in items])
            return _collect([partial(connection.read_into, _pieces(v)) for _, v in items])

        return self._run(read)

    def touch(self, keys: Sequence[bytes], *, ttl: int) -> list[bool]:
        """Which of `keys` are there; those that would expire sooner now live `ttl` seconds."""

        def ask(connection: BulkConnection) -> list[bool]:
            found: list[bool] = []
            for start in range(0, len(keys), _EXISTS_BATCH):
                batch = keys[start : start + _EXISTS_BATCH]
                seconds = b"%d" % ttl
                connection.send_all(
                    [
                        c
                        for key in batch
                        for c in ((b"EXPIRE", key, seconds, b"GT"), (b"EXISTS", key))
                    ]
                )
                replies = _collect([connection.read] * (2 * len(batch)))
                found += [reply == 1 for reply in replies[1::2]]
            return found

        return self._run(ask)

    def exists(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of `keys` are there, asked in batches."""

        def ask(connection: BulkConnection) -> list[bool]:
            found: list[bool] = []
            for start in range(0, len(keys), _EXISTS_BATCH):
                batch = keys[start : start + _EXISTS_BATCH]
                connection.send_all([(b"EXISTS", key) for key in batch])
                found += [reply == 1 for reply in _collect([connection.read] * len(batch))]
            return found

        return self._run(ask)

    def _run(self, operation: Callable[[BulkConnection], _T]) -> _T:
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(StoreUnavailable):  # it may just have gone stale
                    return self._attempt(operation)
            return self._attempt(operation)

    def _attempt(self, operation: Callable[[BulkConnection], _T]) -> _T:
        if self._connection is None:
            self._connection = BulkConnection(self._url, timeout=self._timeout)
        try:
            return operation(self._connection)
        except StoreRefused:
            raise  # every reply was read: the connection is in step
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _ask(connection: BulkConnection, *command: bytes) -> int | bytes | None:
    connection.send_all([command])
    return connection.read()


def _pieces(value: Value) -> Sequence[memoryview]:
    return (value,) if isinstance(value, memoryview) else value


def _collect(readers: Sequence[Callable[[], _T]]) -> list[_T]:
    """Read all replies; the first error is raised only after every reply was read."""
    replies: list[_T] = []
    refused: StoreRefused | None = None
    for read in readers:
        try:
            replies.append(read())
        except StoreRefused as error:
            refused = refused or error
    if refused is not None:
        raise refused
    return replies
