"""Bulk reads and writes of stored values, blocking, for the threads of an engine's linker."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

from state_store.dispatch import Dispatcher, Task
from state_store.errors import StoreFull, StoreRefused
from state_store.resp import Pieces, Refusal, Reply, Request, command, get
from state_store.routing import router_for

Value = memoryview | Sequence[memoryview]
"""One value in memory, uint8: gathered from, or scattered to, one buffer or several."""


class ObjectClient:
    """Pipelined connections to every server of a store, reopened once when they break.

    Thread-safe; an operation has each connection that it uses for itself. Every operation raises
    StoreUnavailable when the store does not answer and StoreRefused when it refuses; writes are
    idempotent, so the caller may simply repeat them. An operation that fails may have been done
    in part.
    """

    def __init__(self, url: str, *, timeout: float, connections: int = 1) -> None:
        """timeout: seconds without progress after which an operation gives up.
        connections: how many, to each server, large batches are spread over.
        """
        self._url = url
        self._timeout = timeout
        self._connections = connections
        self._dispatcher: Dispatcher | None = None
        self._lock = threading.Lock()

    def ping(self) -> None:
        self._dispatch().ping()

    def close(self) -> None:
        """Disconnect. The client stays usable, and connects again when it is used."""
        with self._lock:
            dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.close()

    def put(self, items: Sequence[tuple[bytes, Value]], *, ttl: int) -> None:
        """Store values that expire after `ttl` seconds unless a commit pins them.

        An object that is already there stays as it is, with at least `ttl` to live.
        """
        self._run([(key, _put(key, _pieces(value), ttl)) for key, value in items])

    def replace(self, items: Sequence[tuple[bytes, Value]], *, ttl: int) -> None:
        """Overwrite objects that were found corrupt; pins and expiry stay as they are."""
        self._run([(key, (_replace(key, _pieces(value)),)) for key, value in items])
        self.put(items, ttl=ttl)

    def get_into(self, items: Sequence[tuple[bytes, Value]]) -> list[int | None]:
        """Read each key into its buffers; the sizes of the stored values, None for no such key.

        A value that is larger than its buffers together is skipped: they hold garbage then, as
        they do past the end of a smaller one, and all of them when this raises.
        """
        replies = self._run([(key, (get(key, _pieces(value)),)) for key, value in items])
        return [cast("int | None", reply) for (reply,) in replies]

    def touch(self, keys: Sequence[bytes], *, ttl: int) -> list[bool]:
        """Which of `keys` are there; those that would expire sooner now live `ttl` seconds."""
        replies = self._run([(key, (_prolong(key, ttl), _exists(key))) for key in keys])
        return [found == 1 for _, found in replies]

    def exists(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of `keys` are there."""
        return [found == 1 for (found,) in self._run([(key, (_exists(key),)) for key in keys])]

    def get_small(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, None for no such key. Refuses values of more than 1 MiB."""
        replies = self._run([(key, (command(b"GET", key),)) for key in keys])
        return [cast("bytes | None", value) for (value,) in replies]

    def set_small_nx(self, items: Sequence[tuple[bytes, bytes]], *, ttl: int) -> list[bool]:
        """Which values were stored: those whose key was not there. All live at least `ttl` s.

        After an operation that failed, or a reconnection, a value of one's own may count as there.
        """
        replies = self._run([(key, _put(key, _pieces(value), ttl)) for key, value in items])
        return [stored is not None for stored, _ in replies]

    def _run(self, work: Sequence[tuple[bytes, Sequence[Request]]]) -> list[Sequence[Reply]]:
        """The replies to each key's requests; the first refusal is raised when all are done."""
        tasks = [Task(key, requests) for key, requests in work]
        if tasks:
            self._dispatch().run(tasks)
        for task in tasks:
            for reply in task.replies:
                if isinstance(reply, Refusal):
                    kind = StoreFull if reply.code == "OOM" else StoreRefused
                    raise kind(f"the store refused a command: {reply.text}")
        return [task.replies for task in tasks]

    def _dispatch(self) -> Dispatcher:
        with self._lock:
            if self._dispatcher is None:
                router = router_for(self._url, timeout=self._timeout, connections=self._connections)
                self._dispatcher = Dispatcher(
                    router, timeout=self._timeout, connections=self._connections
                )
            return self._dispatcher


def _put(key: bytes, value: Pieces, ttl: int) -> tuple[Request, Request]:
    return command(b"SET", key, b"NX", b"EX", b"%d" % ttl, value=value), _prolong(key, ttl)


def _replace(key: bytes, value: Pieces) -> Request:
    return command(b"SET", key, b"XX", b"KEEPTTL", value=value)


def _prolong(key: bytes, ttl: int) -> Request:
    return command(b"EXPIRE", key, b"%d" % ttl, b"GT")


def _exists(key: bytes) -> Request:
    return command(b"EXISTS", key)


def _pieces(value: bytes | Value) -> Pieces:
    if isinstance(value, bytes):
        return Pieces((memoryview(value),), len(value))
    if isinstance(value, memoryview):
        return Pieces((value if value.format == "B" else value.cast("B"),), value.nbytes)
    views = [view if view.format == "B" else view.cast("B") for view in value]
    return Pieces(views, sum(map(len, views)))
