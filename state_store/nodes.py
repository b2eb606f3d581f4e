"""Connections to one server: opened by redis-py, used by one operation at a time, reopened."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from state_store.errors import StoreRefused, StoreUnavailable
from state_store.patience import is_untrusted
from state_store.resp import BulkConnection, Came, Command, Item, Reply


class Node:
    """Up to `connections` connections to one server, each used by one operation at a time.

    Operations wait for their turn. A connection that was idle may have gone stale: what fails on
    it is tried once more on a fresh one.
    """

    def __init__(
        self, name: str, connect: Callable[[], BulkConnection], *, connections: int
    ) -> None:
        self.name = name
        self._connect = connect
        self._turns = threading.Semaphore(connections)
        self._lock = threading.Lock()
        self._idle: list[BulkConnection] = []
        self._generation = 0

    def exchange(
        self, commands: Sequence[Command], items: Sequence[Item], came: Came | None = None
    ) -> list[Reply]:
        """came: see `BulkConnection.exchange`; it may be told of an item twice."""
        with self._turns:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
                generation = self._generation
            if connection is not None:
                with contextlib.suppress(StoreUnavailable):
                    return self._exchange(connection, generation, commands, items, came)
                generation = self.disconnect()  # the others have probably gone stale too
            return self._exchange(self._connect(), generation, commands, items, came)

    def disconnect(self) -> int:
        """Give up all connections: idle ones now, those in use when their operation ends."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._generation += 1
            generation = self._generation
        for connection in idle:
            connection.close()
        return generation

    def _exchange(
        self,
        connection: BulkConnection,
        generation: int,
        commands: Sequence[Command],
        items: Sequence[Item],
        came: Came | None,
    ) -> list[Reply]:
        try:
            replies = connection.exchange(commands, items, came)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            kept = generation == self._generation
            if kept:
                self._idle.append(connection)
        if not kept:
            connection.close()
        return replies


def connected(kind: type[Any], arguments: Mapping[str, Any], *, name: str, timeout: float) -> Any:
    """A connection of redis-py (of class `kind`), connected and logged in.

    name: the server's URL without a password, for messages.
    """
    connection = kind(
        **{**arguments, "protocol": 2, "socket_timeout": timeout, "socket_connect_timeout": timeout}
    )
    try:
        connection.connect()
    except (AuthenticationError, ResponseError) as error:
        raise StoreRefused(f"{name} refused the login: {error}") from error
    except (RedisError, OSError) as error:
        if is_untrusted(error):
            raise StoreRefused(
                f"{name} has a certificate that is not trusted here: {error} Name its authority's "
                "file as ssl_ca_certs."
            ) from error
        raise StoreUnavailable(f"cannot connect to {name}: {error}") from error
    return connection
