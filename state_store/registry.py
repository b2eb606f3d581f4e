"""What an engine says of itself in the store, and how its ranks hear of commands.

Engines are found by a name that people give (`engine_id`), and commands go to one start of one
engine (`boot_id`): each of its ranks listens on a list of its own. A name is one engine's: who has
it keeps it until it ends. How runtimes find engines and send them commands is in `commands.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack
from redis.exceptions import RedisClusterException, RedisError

from state_store.address import Address
from state_store.errors import EngineIdTaken, StoreUnavailable
from state_store.protocol import PROTOCOL, differs

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds between a listener's looks at whether it should stop
_REPLY_TTL = 300  # seconds that an answer nobody fetched is kept
_RETRY = 1.0  # seconds before a broken connection is tried again
_FAILED = (RedisError, RedisClusterException, OSError)
_LOOK = 0.1  # seconds between looks at a name that is not free yet
_MARGIN = 2.0  # seconds that a record may be seen after its time: it was renewed just before
_REGISTER, _DEREGISTER = (
    (Path(__file__).parent / "lua" / f"{name}.lua").read_text("utf-8")
    for name in ("register", "deregister")
)

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
        """record: with its `boot_id`
        ttl: seconds after which an engine that no longer renews its record is gone."""
        super().__init__(url, "torpor-heartbeat")
        self._key = engine_key(prefix, engine_id)
        self._names = f"{prefix}:engines"
        self._engine_id = engine_id
        self._boot_id = record["boot_id"]
        self._record = _packed(record)
        self._ttl = ttl
        self._is_new = False
        self._is_displaced = False
        self._changed = threading.Condition()

    def start(self) -> None:
        """Returns once the record is published: when one of an engine that died is in the way,
        once that has expired.

        Raises EngineIdTaken when it does not expire; StoreUnavailable.
        """
        deadline = time.monotonic() + self._ttl + _MARGIN
        while not self._is_registered(last=time.monotonic() > deadline):
            time.sleep(_LOOK)
        super().start()

    def stop(self) -> None:
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        super().stop()

    def publish(self, record: Mapping[str, Any]) -> None:
        """From now on this record; returns when it is in the store.

        Raises StoreUnavailable when it is not after 5 s: then it will be later.
        """
        with self._changed:
            self._record, self._is_new = _packed(record), True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._is_new, timeout=POLL * 5):
                raise StoreUnavailable(f"the record of {self._engine_id} is not published yet.")

    def _withdraw(self) -> None:
        try:
            self._client.eval(_DEREGISTER, 1, self._key, self._boot_id)
        except _FAILED as error:
            logger.warning("engine %s is not withdrawn, it expires: %s", self._engine_id, error)

    def _is_registered(self, *, last: bool) -> bool:
        """Whether the record is published now. If it is not at the `last` look: raises."""
        try:
            if self._register(self._record):
                return True
        except _FAILED as error:
            self._close()
            if last:
                raise StoreUnavailable(
                    f"engine {self._engine_id} could not be registered: {error}"
                ) from error
            return False
        if last:
            raise EngineIdTaken(
                f"another engine that lives is registered as {self._engine_id}. Nothing was "
                "registered. Give each engine that shares the store an id of its own: --engine-id."
            )
        return False

    def _step(self) -> None:
        with self._changed:
            record = self._record
        registered = self._register(record)
        if not registered and not self._is_displaced:
            logger.error(
                "engine %s was silent for long, and another one is registered by its name now: "
                "this one gets no turns until that one ends",
                self._engine_id,
            )
        self._is_displaced = not registered
        with self._changed:
            if registered and record is self._record:
                self._is_new = False
                self._changed.notify_all()
            self._changed.wait_for(
                lambda: (self._is_new and registered) or self._stop.is_set(), self._ttl / 3
            )

    def _register(self, record: bytes) -> bool:
        """Whether the name is this start's; then its record is as given."""
        ttl = int(self._ttl * 1000)
        if not self._client.eval(_REGISTER, 1, self._key, self._boot_id, record, ttl):
            return False
        self._client.sadd(self._names, self._engine_id)
        return True


class CommandListener(_Thread):
    """Runs commands for one rank, one at a time or a few, and answers each."""

    def __init__(
        self,
        url: str,
        address: str,
        rank: int,
        handlers: Mapping[str, Handler],
        *,
        prefix: str,
        at_once: int = 1,
    ) -> None:
        """address: that commands are sent to; no other engine has it, nor another start of this
        at_once: commands that are run at the same time; if more than one, in threads of their own
        """
        super().__init__(url, f"torpor-commands-{rank}")
        self._key = commands_key(prefix, address, rank)
        self._rank = rank
        self._handlers = handlers
        self._at_once = at_once
        self._free = threading.Semaphore(at_once)
        self._running = 0
        self._counting = threading.Lock()

    @property
    def is_running(self) -> bool:
        """Whether a command is being run now."""
        return self._running > 0

    def _step(self) -> None:
        if not self._free.acquire(timeout=POLL):
            return
        try:
            popped = self._client.blpop([self._key], timeout=POLL)
        except BaseException:
            self._free.release()
            raise
        if popped is None:
            self._free.release()
            return
        self._count(1)
        if self._at_once == 1:
            self._do(popped[1])
            return
        name = f"{self._thread.name}-one"
        threading.Thread(target=self._do_apart, args=(popped[1],), name=name, daemon=True).start()

    def _do_apart(self, packed: bytes) -> None:
        try:
            self._do(packed)
        except Exception as error:  # as of the listener's own thread: who asked hears nothing
            logger.warning("a command is not answered: %s", error)

    def _do(self, packed: bytes) -> None:
        try:
            self._answer(msgpack.unpackb(packed))
        finally:
            self._count(-1)
            self._free.release()

    def _count(self, more: int) -> None:
        with self._counting:
            self._running += more

    def _answer(self, call: dict[str, Any]) -> None:
        answer: dict[str, Any] = {
            "call": call["call"], "rank": self._rank, "protocol": PROTOCOL,
            "result": None, "error": None,
        }  # fmt: skip
        if call.get("protocol") != PROTOCOL:
            refusal = differs("who sent the command", call.get("protocol"), ours=PROTOCOL)
            logger.error("a command is refused: %s", refusal)
            packed = msgpack.packb(answer | {"error": refusal})
        else:
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


def _packed(record: Mapping[str, Any]) -> bytes:
    return bytes(msgpack.packb({"protocol": PROTOCOL, **record}))


def registered(url: str, engine_id: str, *, prefix: str) -> dict[str, Any] | None:
    """The record of the engine of that name, if its heartbeat has not expired.

    Raises StoreUnavailable; InvalidUrl.
    """
    address = Address.parse(url)
    try:
        client = address.client(timeout=POLL * 5)
        try:
            record = client.get(engine_key(prefix, engine_id))
        finally:
            client.close()
    except _FAILED as error:
        raise StoreUnavailable(f"{address.public} does not answer: {error}") from error
    return None if record is None else msgpack.unpackb(record)


def engine_key(prefix: str, engine_id: str) -> str:
    return f"{prefix}:engine:{engine_id}"


def commands_key(prefix: str, address: str, rank: int) -> str:
    return f"{prefix}:commands:{address}:{rank}"
