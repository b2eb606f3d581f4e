"""The asynchronous clients of redis-py: for one server, for sentinels' master, for a cluster."""

from __future__ import annotations

import logging
from typing import Any, Self

import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoPermissionError, ResponseError

from state_store.address import SENTINEL_TIMEOUT, Address
from state_store.cluster import ClusterClient
from state_store.patience import Turns, is_passing, patiently

logger = logging.getLogger(__name__)


def client_for(address: Address, *, timeout: float) -> Any:
    """A client for the servers at an address, which `aclose` frees of everything. It connects
    when it is used first.

    timeout: seconds that any one reply may take, and that a failover is waited for
    """
    limits = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    quietly = QuietLogin(address.public)
    arguments: dict[str, Any] = address.arguments | limits
    if address.topology == "cluster":
        members = [ClusterNode(host, port) for host, port in address.nodes]
        return ClusterClient(
            patience=timeout, login=quietly.login_to_member, startup_nodes=members, **arguments
        )
    arguments |= {"redis_connect_func": quietly.login}
    if address.topology == "sentinel":
        limit = min(timeout, SENTINEL_TIMEOUT)
        known = address.sentinel_arguments | {
            "socket_timeout": limit, "socket_connect_timeout": limit, "retry": _retry(0),
        }  # fmt: skip
        kind: Any = Sentinel
        client: Any = kind(address.nodes, sentinel_kwargs=known).master_for(
            address.service,
            redis_class=MasterClient,
            connection_pool_class=_MasterPool,
            retry=_retry(0),
            **arguments,
        )
        return client.waiting(timeout)
    # A pooled connection may have gone stale.
    if "path" in arguments:
        path = arguments.pop("path")
        return ServerClient(unix_socket_path=path, retry=_retry(1), **arguments).waiting(timeout)
    ((host, port),) = address.nodes
    return ServerClient(host=host, port=port, retry=_retry(1), **arguments).waiting(timeout)


class QuietLogin:
    """Logs in, and asks the server not to take what the connection reads for used.

    Control connections look at objects and never load them: a proof of the store that made every
    object look used just now would keep all of them out of the archive.
    """

    def __init__(self, name: str) -> None:
        """name: of the store, for the log"""
        self._name = name
        self._warned = False

    async def login(self, connection: Any) -> None:
        await connection.on_connect()
        await self._ask(connection)

    async def login_to_member(self, connection: Any) -> None:
        """Like `login`, to a server of a cluster.

        Redis 8.2.3 crashes (`getNodeByQuery`) when such a connection reads a slot that moves to
        another master; Redis 7 and Valkey do not.
        """
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        try:
            about = await connection.read_response()
        except ResponseError as error:
            self._warn(f"it does not say which server it is: {error}")
            return
        if b"valkey_version:" not in about and b"redis_version:8." in about:
            self._warn("Redis 8 crashes over NO-TOUCH while slots move")
            return
        await self._ask(connection)

    async def _ask(self, connection: Any) -> None:
        await connection.send_command("CLIENT", "NO-TOUCH", "ON")
        try:
            await connection.read_response()
        except NoPermissionError as error:
            self._warn(str(error))
        except ResponseError:  # older than Redis 7.2
            self._warn("it has no CLIENT NO-TOUCH; Redis 7.2 and Valkey have it")

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the store at %s takes objects that are only looked at for used (%s): after a "
                "check of the store, sweeps leave them alone until they are idle again",
                self._name,
                why,
            )


class ServerClient(redis.asyncio.Redis):
    """Of one server. Commands wait for their turn where redis-py would refuse them for want of a
    free connection."""

    _turns: Turns

    def waiting(self, timeout: float) -> Self:
        self._turns = Turns(timeout)
        return self

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        execute: Any = super().execute_command
        async with self._turns:
            return await execute(*arguments, **options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> _ServerPipeline:
        made = _ServerPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        made.turns = self._turns
        return made


class _ServerPipeline(Pipeline):
    turns: Turns

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        async with self.turns:
            return await super().execute(raise_on_error)


class MasterClient(ServerClient):
    """Asks the sentinels where the master is whenever it connects, and waits up to `patience`
    seconds for one to be there."""

    patience: float

    def waiting(self, timeout: float) -> Self:
        self.patience = timeout
        return super().waiting(timeout)

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        execute = super().execute_command
        return await patiently(lambda: execute(*arguments, **options), timeout=self.patience)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> _MasterPipeline:
        made = _MasterPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        made.turns, made.patience = self._turns, self.patience
        return made


class _MasterPipeline(_ServerPipeline):
    patience: float

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands = list(self.command_stack)
        execute = super().execute

        async def attempt() -> list[Any]:
            self.command_stack = list(commands)
            replies = await execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception) and (raise_on_error or is_passing(reply)):
                    raise reply
            return replies

        return await patiently(attempt, timeout=self.patience)


class _MasterPool(SentinelConnectionPool):
    """Whoever closes it is also done with the sentinels that it asks."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


def _retry(times: int) -> Retry:
    return Retry(NoBackoff(), times, supported_errors=(ConnectionError,))
