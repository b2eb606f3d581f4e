"""The control connection: redis-py, our errors, and the Lua scripts of this package.

One behaviour over one server, the master that sentinels name, and the masters of a cluster. What
fails while one server takes another's place is tried again, within the timeout: every command and
every script may be sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

from redis.exceptions import (
    AskError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    RedisClusterException,
    RedisError,
    TimeoutError,
)

from state_store.address import Address
from state_store.clients import client_for
from state_store.cluster import ClusterClient
from state_store.errors import StoreFull, StoreRefused, StoreUnavailable
from state_store.masters import ClusterMasters, Master
from state_store.objects import ObjectClient
from state_store.patience import is_login, is_passing, is_untrusted, patiently

_SCRIPTS = Path(__file__).with_name("lua")
_USES = re.compile(r"-- Uses: (\w+)\n")  # what stands before a script whose functions it calls
_SCAN = 1000  # keys that a server looks at in one go

Call = tuple[Sequence[str | bytes], Sequence[Any]]
"""Keys and arguments of one run of a script."""


@dataclass(frozen=True)
class Script:
    """One run of a script, as a command. name: see `Control.run`"""

    name: str | Path
    keys: Sequence[str | bytes]
    arguments: Sequence[Any] = ()


Command = Script | Sequence[Any]
"""A script, or the words of any other command."""


class Control:
    """Small commands and scripts, asynchronously. Raises StoreUnavailable and StoreRefused."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """timeout: seconds that any one command may take, waiting for failovers included.
        Raises InvalidUrl."""
        self.address = Address.parse(url)
        self.url = self.address.public
        self._whole_url = url
        self.timeout = timeout
        self.redis: Any = client_for(self.address, timeout=timeout)
        self._masters = ClusterMasters(self.redis) if self.is_cluster else None

    @classmethod
    async def connect(cls, url: str, *, timeout: float) -> Self:
        """Open a store and check that it answers. Raises InvalidUrl too."""
        control = cls(url, timeout=timeout)
        try:
            async with control.guard() as client:
                await client.ping()
        except BaseException:
            await control.close()
            raise
        return control

    async def close(self) -> None:
        await self.redis.aclose()

    @property
    def is_cluster(self) -> bool:
        return isinstance(self.redis, ClusterClient)

    def bulk(self, *, connections: int = 1) -> ObjectClient:
        """A client for payloads of the same store, which the caller closes."""
        return ObjectClient(self._whole_url, timeout=self.timeout, connections=connections)

    @contextlib.asynccontextmanager
    async def guard(self) -> AsyncIterator[Any]:
        """The client, with redis-py's errors turned into ours.

        On a cluster each command goes to the master of its first key; all its keys must be in one
        slot. Untyped: redis-py's annotations allow decoded replies, and ours are all raw.

        A task that was cancelled within is cancelled at the end at the latest: redis-py sends
        through `asyncio.wait_for`, which before Python 3.12 drops a cancellation that comes when
        everything is sent already.
        """
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        try:
            yield self.redis
        except (RedisError, RedisClusterException, OSError) as error:
            if task is not None and task.cancelling() > before:
                raise asyncio.CancelledError from error
            raise self._ours(error) from error
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError

    async def run(self, script: str | Path, keys: Sequence[str | bytes], *arguments: Any) -> Any:
        """Run a script of this package's `lua` by its name, or any by its path. It may be run
        twice. All keys are in one slot."""
        text, digest = _script(script)
        async with self.guard() as client:
            try:
                return await client.evalsha(digest, len(keys), *keys, *arguments)
            except NoScriptError:  # a server that is new to it, as after a failover
                return await client.eval(text, len(keys), *keys, *arguments)

    async def run_many(self, script: str | Path, calls: Sequence[Call]) -> list[Any]:
        """Run a script once per (keys, arguments), in one round trip to each master; each run is
        atomic, and all are made even if one fails."""
        return await self.exchange([Script(script, *call) for call in calls])

    async def exchange(self, *steps: Sequence[Command]) -> list[Any]:
        """Replies to all commands of all steps. The commands of a step go out in one round trip to
        each master. A step follows when all before it are done: where one server holds everything
        that takes no other round trip.

        All of a step are made even if one fails, and its error is raised then; whether the steps
        behind it are made is not certain. What comes behind a script that a server did not know
        yet may be run twice.
        """
        trips = steps if self.is_cluster else [[command for step in steps for command in step]]
        return [reply for trip in trips for reply in await self._replies(trip)]

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = []
        async with self.guard() as client:
            for by_text in (False, True):  # for servers that are new to a script
                if len(replies) == len(commands):
                    break
                pipeline = client.pipeline(transaction=False)
                for command in commands[len(replies) :]:
                    pipeline.execute_command(*_words(command, by_text=by_text))
                sent = await pipeline.execute(raise_on_error=False)
                unknown = [at for at, reply in enumerate(sent) if isinstance(reply, NoScriptError)]
                replies += sent[: unknown[0] if unknown else len(sent)]
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    async def all_exist(self, *groups: Sequence[bytes]) -> list[bool]:
        """Of each group of keys, none of which is empty or names one twice, whether all are there;
        in one round trip."""
        asked = [[[key] for key in keys] if self.is_cluster else [keys] for keys in groups]
        async with self.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for parts in asked:  # a command speaks of one slot on a cluster
                for together in parts:
                    pipeline.exists(*together)
            counts = iter(await pipeline.execute())
        return [
            sum(next(counts) for _ in parts) == len(keys)
            for keys, parts in zip(groups, asked, strict=True)
        ]

    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Keys that match, in batches; some may come twice. All that are there throughout are
        found, also if slots move from one master to another meanwhile, each of them once."""
        for _ in range(2):  # what moved past the first look lies still in the second
            before = await self._slots()
            for master in await self.masters():
                cursor = 0
                while True:
                    words = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN)
                    async with self.guard():
                        ((cursor, keys),) = await master.exchange([words])
                    if keys:
                        yield keys
                    if not cursor:
                        break
            after = await self._slots()
            if before == after and not any(moving for *_, moving in after):
                return

    async def masters(self) -> list[Master]:
        """Every server that holds data now."""
        if self._masters is None:
            return [Master("", self._exchange)]
        async with self.guard():
            return await patiently(self._masters.find, timeout=self.timeout)

    async def on_masters(self, ask: Callable[[Master], Awaitable[list[Any]]]) -> list[list[Any]]:
        """What `ask` is told by every master, all of them of the same set of masters: should that
        change meanwhile, all are asked again. So they are with tags in other slots where one is
        about to move."""
        moving: set[int] = set()

        async def attempt() -> list[list[Any]]:
            try:
                masters = await self._masters_without(moving)
                sent = [ask(master) for master in masters]
                replies = await asyncio.gather(*sent, return_exceptions=True)
                for reply in replies:  # once all have ended: none goes on behind our back
                    if isinstance(reply, BaseException):
                        raise reply
                return cast("list[list[Any]]", replies)
            except (RedisError, OSError) as error:
                if isinstance(error, AskError) and not isinstance(error, MovedError):
                    moving.add(error.slot_id)
                elif self.is_cluster and is_passing(error):
                    with contextlib.suppress(RedisError, RedisClusterException):
                        await self.redis.nodes_manager.initialize()
                raise

        async with self.guard():
            if not self.address.patient:
                return await attempt()
            return await patiently(attempt, timeout=self.timeout)

    async def _masters_without(self, slots: Collection[int]) -> list[Master]:
        if self._masters is None:
            return [Master("", self._exchange)]
        return await self._masters.find(slots)

    async def _exchange(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        pipeline = self.redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute())

    async def _slots(self) -> list[tuple[str, Any, Any]]:
        """Id of every master, the slots that it says it has, and those that are on the move."""
        if not self.is_cluster:
            return []
        found = []
        for (members,) in await self.on_masters(lambda m: m.exchange([("CLUSTER NODES",)])):
            for member in members.values():
                if "myself" in member["flags"]:
                    found.append((member["node_id"], member["slots"], member["migrations"]))
        return sorted(found, key=lambda master: master[0])

    def _ours(self, error: Exception) -> StoreUnavailable | StoreRefused:
        if isinstance(error, OutOfMemoryError):
            return StoreFull(
                f"the store at {self.url} has no memory left; what this needed was not written, "
                "and all that is stored is kept. Delete or archive sessions, or raise `maxmemory`."
            )
        if isinstance(error, NoPermissionError):
            return StoreRefused(
                f"the store at {self.url} does not let its user do this: {error}. "
                "docs/deploy-store.md lists the rights that are needed."
            )
        if is_untrusted(error):
            return StoreRefused(
                f"the store at {self.url} has a certificate that is not trusted here: {error} "
                "Name its authority's file as ssl_ca_certs."
            )
        if is_login(error):
            return StoreRefused(f"the store at {self.url} refused the login: {error}")
        passing = (ConnectionError, TimeoutError, OSError, RedisClusterException)
        if isinstance(error, passing) and is_passing(error):
            return StoreUnavailable(f"the store at {self.url} does not answer: {error}")
        if self.address.patient and is_passing(error):
            return StoreUnavailable(
                f"the store at {self.url} was not ready within {self.timeout:g} s: {error}"
            )
        return StoreRefused(f"the store at {self.url} refused a command: {error}")


def _words(command: Command, *, by_text: bool) -> Sequence[Any]:
    if not isinstance(command, Script):
        return command
    text, digest = _script(command.name)
    how = ("EVAL", text) if by_text else ("EVALSHA", digest)
    return (*how, len(command.keys), *command.keys, *command.arguments)


@cache
def _script(script: str | Path) -> tuple[str, str]:
    """Text and digest of a script."""
    path = script if isinstance(script, Path) else _SCRIPTS / f"{script}.lua"
    text = path.read_text("utf-8")
    if uses := _USES.match(text):
        text = (_SCRIPTS / f"{uses[1]}.lua").read_text("utf-8") + text
    return text, hashlib.sha1(text.encode()).hexdigest()
