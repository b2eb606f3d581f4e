"""The asynchronous clients of redis-py: for one server, for sentinels' master, for a cluster."""

from __future__ import annotations

from typing import Any

import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError

from state_store.address import SENTINEL_TIMEOUT, Address
from state_store.cluster import ClusterClient
from state_store.patience import is_passing, patiently


def client_for(address: Address, *, timeout: float) -> Any:
    """A client for the servers at an address, which `aclose` frees of everything. It connects
    when it is used first.

    timeout: seconds that any one reply may take, and that a failover is waited for
    """
    limits = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    arguments = address.arguments | limits
    if address.topology == "cluster":
        members = [ClusterNode(host, port) for host, port in address.nodes]
        return ClusterClient(patience=timeout, startup_nodes=members, **arguments)
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
        client.patience = timeout
        return client
    # A pooled connection may have gone stale.
    if "path" in arguments:
        path = arguments.pop("path")
        return redis.asyncio.Redis(unix_socket_path=path, retry=_retry(1), **arguments)
    ((host, port),) = address.nodes
    return redis.asyncio.Redis(host=host, port=port, retry=_retry(1), **arguments)


class MasterClient(redis.asyncio.Redis):
    """Asks the sentinels where the master is whenever it connects, and waits up to `patience`
    seconds for one to be there."""

    patience: float

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        execute: Any = super().execute_command
        return await patiently(lambda: execute(*arguments, **options), timeout=self.patience)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> _MasterPipeline:
        made = _MasterPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        made.patience = self.patience
        return made


class _MasterPipeline(Pipeline):
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
