"""How runtimes find engines and have them run commands, through the store.

A command is pushed to the list that a rank listens on; its answer comes on a list of the caller's
process. That one is read by one task while anything is waited for: however many turns wait for
engines, they hold one connection together, and nobody else's command waits behind them. Commands
are small: payloads never travel this way. After a lost reply or a failover a command may be run
twice, or not at all: then its caller hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from state_store.connection import Control
from state_store.errors import EngineFailed, EngineSilent, OtherProtocol, StoreError
from state_store.protocol import PROTOCOL, differs
from state_store.registry import POLL, commands_key, engine_key

logger = logging.getLogger(__name__)


@dataclass
class _Call:
    """address: of the engine; answers: by rank; done: when all ranks have answered, or one with an
    error"""

    address: str
    ranks: int
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    done: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def refuse(self, spoken: object) -> None:
        """The engine speaks another version of the protocol."""
        if not self.done.done():
            who = f"the engine at {self.address}"
            self.done.set_exception(OtherProtocol(differs(who, spoken, ours=PROTOCOL)))

    def take(self, answer: Mapping[str, Any]) -> None:
        if self.done.done():
            return
        if answer["error"] is not None:
            error = EngineFailed(f"rank {answer['rank']} failed: {answer['error']}")
            self.done.set_exception(error)
            return
        self.answers[answer["rank"]] = answer["result"]
        if len(self.answers) == self.ranks:
            self.done.set_result(None)


class Commands:
    """Of one process; for one event loop."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix
        self._replies = f"{prefix}:reply:{secrets.token_hex(8)}"
        self._calls: dict[str, _Call] = {}
        self._reader: asyncio.Task[None] | None = None
        self._names: list[bytes] = []

    async def close(self) -> None:
        """Whoever still waits for an answer is told that there will be none."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def engines(self) -> list[dict[str, Any]]:
        """Records of the engines whose heartbeat has not expired, by id; of one that is damaged the
        id only. One round trip while the same engines are registered as the last time."""
        async with self._control.guard() as client:
            while True:
                asked = self._names
                pipeline = client.pipeline(transaction=False)  # in a cluster they are in many slots
                pipeline.smembers(f"{self._prefix}:engines")
                for name in asked:
                    pipeline.get(engine_key(self._prefix, name.decode()))
                registered, *stored = await pipeline.execute()
                self._names = sorted(registered)
                if self._names == asked:
                    break
            gone = [name for name, record in zip(asked, stored, strict=True) if record is None]
            if gone:
                await client.srem(f"{self._prefix}:engines", *gone)
        found = zip(asked, stored, strict=True)
        return [_record(name, record) for name, record in found if record is not None]

    async def send(
        self,
        address: str,
        ranks: int,
        name: str,
        payload: Mapping[str, Any],
        *,
        timeout: float,
    ) -> list[dict[str, Any]]:
        """See `StateStore.send_command`."""
        call_id = secrets.token_hex(8)
        call = self._calls[call_id] = _Call(address, ranks)
        sent = {
            "call": call_id, "protocol": PROTOCOL, "name": name, "payload": dict(payload),
            "reply": self._replies,
        }  # fmt: skip
        try:
            async with asyncio.timeout(timeout):
                if self._reader is None or self._reader.done():  # it listens before it is answered
                    self._reader = asyncio.create_task(self._read())
                await self._push(address, ranks, msgpack.packb(sent), timeout)
                await call.done
        except TimeoutError:
            raise EngineSilent(
                f"{len(call.answers)} of {ranks} ranks of {address} answered {name}."
            ) from None
        finally:
            del self._calls[call_id]
            if not call.done.cancel() and not call.done.cancelled():
                call.done.exception()  # else asyncio complains that nobody has asked for it
        return [call.answers[rank] for rank in range(ranks)]

    async def _push(self, address: str, ranks: int, call: bytes, timeout: float) -> None:
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for rank in range(ranks):
                key = commands_key(self._prefix, address, rank)
                pipeline.rpush(key, call)
                # A command to an engine that died must not be run by its successor much later; but
                # one that waits longer for its turn must not vanish with one that waits less.
                for longer in ({"nx": True}, {"gt": True}):
                    pipeline.pexpire(key, max(int(timeout * 1000), 1), **longer)
            await pipeline.execute()

    def _take(self, packed: bytes) -> None:
        if (other := _of_another_protocol(packed)) is not None:
            call_id, spoken = other
            if call_id in self._calls:
                self._calls[call_id].refuse(spoken)
            return
        answer = _read_answer(packed)
        call = None if answer is None else self._calls.get(answer["call"])
        if answer is None or (call is not None and answer["rank"] >= call.ranks):
            # Nobody else may fail because of it.
            logger.error("what came is no answer to a command; it is not heard of: %r", packed[:80])
        elif call is not None:
            call.take(answer)

    async def _read(self) -> None:
        """While anything is waited for. What nobody waits for any more is thrown away."""
        poll = min(POLL, self._control.timeout / 2)  # the connection gives up at its own timeout
        try:
            while self._calls:
                async with self._control.guard() as client:
                    popped = await client.blpop([self._replies], timeout=poll)
                if popped is not None:
                    self._take(popped[1])
        except StoreError as error:
            for call in self._calls.values():
                if not call.done.done():
                    call.done.set_exception(type(error)(*error.args))
        finally:
            for call in self._calls.values():
                with contextlib.suppress(asyncio.InvalidStateError):
                    call.done.set_exception(EngineSilent("the store was closed meanwhile."))


def _record(name: bytes, packed: bytes) -> dict[str, Any]:
    """What an engine has published; its id alone where that is no record."""
    try:
        record = msgpack.unpackb(packed)
    except (ValueError, msgpack.UnpackException):
        record = None
    return record if isinstance(record, dict) else {"engine_id": name.decode()}


def _of_another_protocol(packed: bytes) -> tuple[str, object] | None:
    """The call, and the protocol that its answer is in, if that is not ours."""
    answer = _unpacked(packed)
    if not isinstance(answer, dict) or not isinstance(answer.get("call"), str):
        return None
    spoken = answer.get("protocol")
    return None if spoken in (None, PROTOCOL) else (answer["call"], spoken)


def _unpacked(packed: bytes) -> object:
    try:
        return msgpack.unpackb(packed)
    except Exception:  # there are many ways to be no msgpack
        return None


def _read_answer(packed: bytes) -> dict[str, Any] | None:
    """What a rank says of a call; None for what is no answer."""
    answer = _unpacked(packed)
    well_formed = (
        isinstance(answer, dict)
        and isinstance(answer.get("call"), str)
        and answer.get("protocol") == PROTOCOL
        and type(answer.get("rank")) is int
        and answer["rank"] >= 0
        and isinstance(answer.get("error", 0), str | None)
        and (answer["error"] is not None or "result" in answer)
    )
    return answer if isinstance(answer, dict) and well_formed else None
