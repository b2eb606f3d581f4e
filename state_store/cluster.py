"""redis-py's asynchronous cluster client, sent by a loop of our own.

redis-py keeps the connections and the map of slots, and knows the commands. Three things it does
would not do here (redis-py 8.1, `redis/asyncio/cluster.py`):

- ASKING goes out on one pooled connection and the command on another one, as soon as there are
  two: during a migration the command then never arrives, and the next one on the first connection
  is answered by a server that does not have the keys yet;
- a command that failed for want of a server is tried again at once, a few times, and not for as
  long as a failover takes;
- a pipeline that broke off closes every connection of the client, in use or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio.cluster import ClusterNode, ClusterPipeline, PipelineCommand, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.cluster import PRIMARY
from redis.exceptions import AskError, MovedError, RedisClusterException, RedisError

from state_store.patience import Patience, Turns, is_passing, patiently


class ClusterClient(RedisCluster):
    """Waits up to `patience` seconds, without progress, for what passes by itself."""

    def __init__(
        self, *, patience: float, login: Callable[[Any], Awaitable[None]], **arguments: Any
    ) -> None:
        """login: called with each connection to a member when it is made"""
        super().__init__(retry=Retry(NoBackoff(), 0), **arguments)
        self.patience = patience
        # redis-py takes no such function, but hands these on to the members that it finds.
        self.connection_kwargs["redis_connect_func"] = login
        for member in self.nodes_manager.startup_nodes.values():
            member.connection_kwargs["redis_connect_func"] = login
        self._turns = Turns(patience)

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        if options.get("target_nodes") is not None or arguments[0] in self.COMMAND_FLAGS:
            execute = super().execute_command  # it knows which members are meant
            return await patiently(lambda: execute(*arguments, **options), timeout=self.patience)
        command = PipelineCommand(0, *arguments, **options)
        await self.send([command])
        if isinstance(command.result, Exception):
            raise command.result
        return command.result

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> KeyedPipeline:
        """Not a transaction: only scripts are atomic, and those of one key's slot."""
        return KeyedPipeline(self)  # type: ignore[abstract]

    async def send(self, commands: Sequence[PipelineCommand]) -> None:
        """Fill in the result of each command, from the master of its key; errors are results too.

        The first word after the command is its key (of EVAL and EVALSHA the third). Commands of
        one slot are done in order, though what follows one that failed may be done twice.
        """
        patience = Patience(self.patience)
        waiting = list(commands)
        asked: dict[int, ClusterNode] = {}  # by id of the command: where its slot is moving to
        while waiting:
            again, why = await self._round(waiting, asked)
            if why is None:
                return
            if len(again) < len(waiting):
                patience = Patience(self.patience)
            waiting = again
            try:
                await patience.wait(why)
            except Exception:
                return  # those waiting keep their errors

    async def _round(
        self, commands: Sequence[PipelineCommand], asked: dict[int, ClusterNode]
    ) -> tuple[list[PipelineCommand], Exception | None]:
        """Send once. Those to be sent again, and one reason why."""
        batches: dict[tuple[ClusterNode, bool], list[PipelineCommand]] = {}
        try:
            await self.initialize()
            for command in commands:
                master: Any = asked.get(id(command))
                if master is None:
                    master = self.get_node_from_key(_key_of(command.args))
                batches.setdefault((master, id(command) in asked), []).append(command)
        except (RedisError, RedisClusterException) as error:
            for command in commands:
                command.result = error
            return (list(commands), error) if is_passing(error) else ([], None)
        await asyncio.gather(
            *(self._exchange(node, batch, ask) for (node, ask), batch in batches.items())
        )
        asked.clear()
        again: list[PipelineCommand] = []
        why: Exception | None = None
        held_up: set[int] = set()
        moved: list[MovedError] = []
        for command in commands:
            result, slot = command.result, self.keyslot(_key_of(command.args))
            if isinstance(result, Exception) and is_passing(result):
                why = result
                held_up.add(slot)
                if isinstance(result, MovedError):
                    moved.append(result)
                elif isinstance(result, AskError):
                    asked[id(command)] = self._member(result)
            if slot in held_up:
                again.append(command)
        if len(again) > len(asked):
            await self._learn(moved)
        return again, why

    async def _exchange(
        self, node: ClusterNode, batch: Sequence[PipelineCommand], asking: bool
    ) -> None:
        """Send a batch on one connection; a broken one is the result of whatever it left open."""
        sent = list(batch)
        if asking:
            sent = [each for command in batch for each in (PipelineCommand(0, "ASKING"), command)]
        for command in batch:
            command.result = None
        try:
            async with self._turns:
                await node.execute_pipeline(sent)
        except (RedisError, OSError) as error:
            for command in batch:
                command.result = error

    async def _learn(self, moved: Sequence[MovedError]) -> None:
        """Ask for the map of slots; what masters said about their own is more certain."""
        try:
            await self.nodes_manager.initialize()
            for error in moved:
                await self.nodes_manager.move_slot(error)
        except (RedisError, RedisClusterException, OSError):
            return  # asked again when the command fails again

    def _member(self, error: AskError) -> ClusterNode:
        """Who takes over a slot; it may have had none before, and so not be on the map."""
        known: ClusterNode | None = self.get_node(host=error.host, port=error.port)
        if known is None:
            known = ClusterNode(error.host, error.port, PRIMARY, **self.connection_kwargs)
            self.nodes_manager.set_nodes(self.nodes_manager.nodes_cache, {known.name: known})
        return known


class KeyedPipeline(ClusterPipeline):
    """Commands sent together to the masters of their keys."""

    __slots__ = ("_client", "_commands")

    def __init__(self, client: ClusterClient) -> None:
        super().__init__(client)
        self._client = client
        self._commands: list[PipelineCommand] = []

    def __len__(self) -> int:
        return len(self._commands)

    def execute_command(self, *arguments: Any, **options: Any) -> KeyedPipeline:
        self._commands.append(PipelineCommand(len(self._commands), *arguments, **options))
        return self

    async def execute(
        self, raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        commands, self._commands = self._commands, []
        await self._client.send(commands)
        results = [command.result for command in commands]
        if raise_on_error:
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return results

    async def reset(self) -> None:  # type: ignore[override]
        self._commands = []


def _key_of(arguments: Sequence[Any]) -> Any:
    return arguments[3] if arguments[0] in ("EVAL", "EVALSHA") else arguments[1]
