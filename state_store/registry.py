"""What an engine says of itself in the store, and how its ranks hear of commands.

An engine's rank listens on a list of its own. How runtimes find engines and send them commands is
in `commands.py`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
from redis.exceptions import RedisClusterException, RedisError

from state_store.address import Address
from state_store.errors import StoreUnavailable

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds between a listener's looks at whether it should stop
_REPLY_TTL = 300  # seconds that an answer nobody fetched is kept
_RETRY = 1.0  # seconds before a broken connection is tried again
_FAILED = (RedisError, RedisClusterException, OSError)

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class _Thread:
    """A daemon thread with a client of its own, opened when it is needed and again when it breaks.

    Raises InvalidUrl.
    """

    def __init__(self, url: str, name: str) -> None:
        self._address = Address.parse(url)
        self._opened: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._withdraw()
        self._close()

    @property
    def _client(self) -> Any:
        """Raises RedisError, RedisClusterException."""
        if self._opened is None:
            self._opened = self._address.client(timeout=POLL * 5)
        return self._opened

    def _close(self) -> None:
        client, self._opened = self._opened, None
        if client is not None:
            client.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._step()
            except _FAILED as error:
                logger.warning("%s: the store does not answer: %s", self._thread.name, error)
                self._close()  # whoever answers next may be elsewhere
                self._stop.wait(_RETRY)
            except Exception:  # the thread must outlive it: nobody would notice that it is gone
                logger.exception("%s: a step failed", self._thread.name)
                self._stop.wait(_RETRY)

    def _withdraw(self) -> None:
        """Runs once the thread has ended."""

    def _step(self) -> None:
        raise NotImplementedError


class Heartbeat(_Thread):
    """Publishes an engine's record and keeps it alive; withdraws it on `stop`."""

    def __init__(
        self, url: str, engine_id: str, record: Mapping[str, Any], *, ttl: float, prefix: str
    ) -> None:
        """ttl: seconds after which an engine that no longer renews its record is gone."""
        super().__init__(url, "torpor-heartbeat")
        self._prefix = prefix
        self._engine_id = engine_id
        self._record = msgpack.packb(dict(record))
        self._ttl = ttl
        self._is_new = False
        self._changed = threading.Condition()

    def stop(self) -> None:
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        super().stop()

    def _withdraw(self) -> None:
        try:
            self._client.delete(engine_key(self._prefix, self._engine_id))
        except _FAILED as error:
            logger.warning("engine %s is not withdrawn, it expires: %s", self._engine_id, error)

    def publish(self, record: Mapping[str, Any]) -> None:
        """From now on this record; returns when it is in the store.

        Raises StoreUnavailable when it is not after 5 s: then it will be later.
        """
        with self._changed:
            self._record, self._is_new = msgpack.packb(dict(record)), True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._is_new, timeout=POLL * 5):
                raise StoreUnavailable(f"the record of {self._engine_id} is not published yet.")

    def _step(self) -> None:
        key = engine_key(self._prefix, self._engine_id)
        with self._changed:
            record = self._record
        self._client.set(key, record, px=int(self._ttl * 1000))
        self._client.sadd(f"{self._prefix}:engines", self._engine_id)
        with self._changed:
            if record is self._record:
                self._is_new = False
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_new or self._stop.is_set(), self._ttl / 3)


class CommandListener(_Thread):
    """Runs commands for one rank, one at a time, and answers each."""

    def __init__(
        self, url: str, engine_id: str, rank: int, handlers: Mapping[str, Handler], *, prefix: str
    ) -> None:
        super().__init__(url, f"torpor-commands-{rank}")
        self._key = commands_key(prefix, engine_id, rank)
        self._rank = rank
        self._handlers = handlers

    def _step(self) -> None:
        popped = self._client.blpop([self._key], timeout=POLL)
        if popped is None:
            return
        call = msgpack.unpackb(popped[1])
        answer: dict[str, Any] = {
            "call": call["call"], "rank": self._rank, "result": None, "error": None,
        }  # fmt: skip
        try:
            result = self._handlers[call["name"]](call["payload"])
            packed = msgpack.packb(answer | {"result": result})
        except Exception as error:
            logger.exception("command %s failed", call["name"])
            packed = msgpack.packb(answer | {"error": f"{type(error).__name__}: {error}"})
        pipeline = self._client.pipeline(transaction=False)
        pipeline.rpush(call["reply"], packed)
        pipeline.expire(call["reply"], _REPLY_TTL)
        pipeline.execute()


def engine_key(prefix: str, engine_id: str) -> str:
    return f"{prefix}:engine:{engine_id}"


def commands_key(prefix: str, engine_id: str, rank: int) -> str:
    return f"{prefix}:commands:{engine_id}:{rank}"
