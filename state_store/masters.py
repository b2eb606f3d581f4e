"""The servers that hold data, each with a place for keys of its own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio.cluster import ClusterNode, PipelineCommand
from redis.exceptions import ConnectionError, RedisError

from state_store.cluster import ClusterClient
from state_store.routing import key_slot

Exchange = Callable[[Sequence[Sequence[Any]]], Awaitable[list[Any]]]
"""Sends commands (words each) on one connection, in order, and returns the replies; raises the
first error, as redis-py's."""

_Slots = Mapping[int, Sequence[ClusterNode]]
"""Master and replicas of each."""

_slots_of_numbers: list[int] = []  # that the keys "0", "1", ... lie in, as many as were needed


@dataclass(frozen=True)
class Master:
    """One server that holds data.

    tag: hash tag of keys that it holds; "" if it holds all
    """

    tag: str
    exchange: Exchange


class ClusterMasters:
    """Those of a cluster, as its members know them: the client's map of slots is only corrected
    where a command of its own went astray."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._ids: dict[str, str] = {}  # of members that were masters, by name

    async def find(self, without: Collection[int] = ()) -> list[Master]:
        """Every one that has slots.

        without: slots that tags are not to lie in, for any master that has others
        Raises as redis-py; its ConnectionError too while members disagree who the masters are.
        """
        await self._client.initialize()
        try:
            complete = await self._is_complete()
        except (RedisError, OSError):
            complete = False  # the one that was asked may be no master any more
        if not complete:
            await self._client.nodes_manager.initialize()
            if not await self._is_complete():
                raise ConnectionError("the members of the cluster disagree who its masters are")
        slots = self._client.nodes_manager.slots_cache
        nodes = self._by_name(slots)
        if len(self._by_name(slots, without)) < len(nodes):
            without = ()
        tags: dict[str, str] = {}
        for number, slot in _numbers():
            if len(tags) == len(nodes):
                break
            if slot not in without:
                tags.setdefault(slots[slot][0].name, f"{{{number}}}")
        return [Master(tag, _exchange_at(nodes[name])) for name, tag in tags.items()]

    async def _is_complete(self) -> bool:
        """Whether the map has every master that a member knows of."""
        nodes = self._by_name(self._client.nodes_manager.slots_cache)
        ids = {await self._id_of(node) for node in nodes.values()}
        asked = random.choice(list(nodes.values()))
        (ranges,) = await _exchange_at(asked)([("CLUSTER SLOTS",)])
        if {master[2].decode() for _, _, master, *_ in ranges} <= ids:
            return True
        self._ids.clear()  # another server may have been put at an old one's address
        return False

    async def _id_of(self, node: ClusterNode) -> str:
        known = self._ids.get(node.name)
        if known is None:
            (members,) = await _exchange_at(node)([("CLUSTER NODES",)])
            (known,) = (m["node_id"] for m in members.values() if "myself" in m["flags"])
            self._ids[node.name] = known
        return known

    @staticmethod
    def _by_name(slots: _Slots, without: Collection[int] = ()) -> dict[str, ClusterNode]:
        """The masters of slots."""
        if without:
            slots = {slot: members for slot, members in slots.items() if slot not in without}
        ranges = {id(members): members for members in slots.values()}  # redis-py shares them
        return {members[0].name: members[0] for members in ranges.values()}


def _numbers() -> Iterator[tuple[int, int]]:
    """Every number, and the slot of the key that is this number."""
    for number in itertools.count():
        if number == len(_slots_of_numbers):
            _slots_of_numbers.append(key_slot(b"%d" % number))
        yield number, _slots_of_numbers[number]


def _exchange_at(node: ClusterNode) -> Exchange:
    async def exchange(commands: Sequence[Sequence[Any]]) -> list[Any]:
        sent = [PipelineCommand(index, *words) for index, words in enumerate(commands)]
        await node.execute_pipeline(sent)
        for command in sent:
            if isinstance(command.result, Exception):
                raise command.result
        return [command.result for command in sent]

    return exchange
