"""Bulk reads and writes of stored values, blocking, for the threads of an engine's linker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import cast

from state_store.dispatch import Dispatcher, Told
from state_store.errors import StoreFull, StoreRefused
from state_store.resp import Command, Item, Refusal, Reply, Value, command
from state_store.routing import router_for

_EXISTS = command(b"EXISTS")
_GET = command(b"GET")
_GET_INTO = command(b"GET", payload="received")
_OVERWRITE = command(b"SET", b"XX", b"KEEPTTL", payload="sent")


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
        self._set_new(items, ttl)

    def replace(self, items: Sequence[tuple[bytes, Value]], *, ttl: int) -> None:
        """Overwrite objects that were found corrupt; pins and expiry stay as they are, with at
        least `ttl` to live."""
        there = [reply is not None for reply in self._run((_OVERWRITE,), items)]
        self._keep([item for item, was in zip(items, there, strict=True) if was], ttl)
        self._set_new([item for item, was in zip(items, there, strict=True) if not was], ttl)

    def get_into(
        self,
        items: Sequence[tuple[bytes, Value]],
        came: Callable[[Sequence[tuple[int, int | None]]], None] | None = None,
    ) -> list[int | None]:
        """Read each key into its buffers; the sizes of the stored values, None for no such key.

        A value that is larger than its buffers together is skipped: they hold garbage then, as
        they do past the end of a smaller one, and all of them when this raises.

        came: told places in `items` and the sizes of values that are there, while the store sends
        the next ones; see `Dispatcher.run`
        """
        sizes = self._run((_GET_INTO,), items, cast("Told | None", came))
        return cast("list[int | None]", sizes)

    def touch(self, keys: Sequence[bytes], *, ttl: int) -> list[bool]:
        """Which of `keys` are there; those that would expire sooner now live `ttl` seconds."""
        prolong = command(b"EXPIRE", b"%d" % ttl, b"GT")
        replies = self._run((prolong, _EXISTS), [(key, b"") for key in keys])
        return [found == 1 for found in replies[1::2]]

    def exists(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of `keys` are there."""
        return [found == 1 for found in self._run((_EXISTS,), [(key, b"") for key in keys])]

    def get_small(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, None for no such key. Refuses values of more than 1 MiB."""
        return cast("list[bytes | None]", self._run((_GET,), [(key, b"") for key in keys]))

    def set_small_nx(self, items: Sequence[tuple[bytes, bytes]], *, ttl: int) -> list[bool]:
        """Which values were stored: those whose key was not there. All live at least `ttl` s.

        After an operation that failed, or a reconnection, a value of one's own may count as there.
        """
        return self._set_new(items, ttl)

    def _set_new(self, items: Sequence[Item], ttl: int) -> list[bool]:
        """Which values were stored: those whose key was not there. All live at least `ttl` s."""
        set_new = command(b"SET", b"NX", b"EX", b"%d" % ttl, payload="sent")
        stored = [reply is not None for reply in self._run((set_new,), items)]
        there = [place for place, new in enumerate(stored) if not new]
        for place, new in zip(there, self._keep([items[p] for p in there], ttl), strict=True):
            stored[place] = new
        return stored

    def _keep(self, items: Sequence[Item], ttl: int) -> list[bool]:
        """Have values that were there live at least `ttl` s. Which had expired meanwhile, and
        were stored again."""
        kept = self.touch([key for key, _ in items], ttl=ttl)
        gone = [item for item, there in zip(items, kept, strict=True) if not there]
        again = iter(self._set_new(gone, ttl) if gone else ())
        return [not there and next(again) for there in kept]

    def _run(
        self, commands: Sequence[Command], items: Sequence[Item], came: Told | None = None
    ) -> list[Reply]:
        """The replies to each item's commands; the first refusal is raised when all are done."""
        replies = self._dispatch().run(commands, items, came) if items else []
        refusal = next((reply for reply in replies if type(reply) is Refusal), None)
        if refusal is not None:
            kind = StoreFull if refusal.code == "OOM" else StoreRefused
            raise kind(f"the store refused a command: {refusal.text}")
        return replies

    def _dispatch(self) -> Dispatcher:
        with self._lock:
            if self._dispatcher is None:
                router = router_for(self._url, timeout=self._timeout, connections=self._connections)
                self._dispatcher = Dispatcher(
                    router, timeout=self._timeout, connections=self._connections
                )
            return self._dispatcher
