"""Where a key lives: the servers behind a URL, their connections, and a cluster's slot map.

A router knows the nodes of one topology. It never sends anything by itself except to learn about
that topology, which redis-py does for it.
Slots: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import binascii
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from state_store.address import Address
from state_store.errors import StoreRefused, StoreUnavailable
from state_store.nodes import Node, connected
from state_store.resp import BulkConnection

SLOTS = 16384
_MEMBER_TIMEOUT = 1.0  # seconds for any member to tell the map of slots: others know it too


class Server(NamedTuple):
    host: str
    port: int


def key_slot(key: bytes) -> int:
    """The cluster slot of a key: CRC16 (XMODEM) of its hash tag, or of all of it."""
    start = key.find(b"{") + 1
    if start:
        end = key.find(b"}", start)
        if end > start:
            key = key[start:end]
    return binascii.crc_hqx(key, 0) % SLOTS


def router_for(url: str, *, timeout: float, connections: int) -> Router:
    """The router for a store's URL. Connects to nothing yet; raises InvalidUrl."""
    address = Address.parse(url)
    kind, arguments = address.connection_class, address.connection_arguments
    if address.topology == "cluster":
        seeds = [Server(*node) for node in address.nodes]
        return ClusterRouter(seeds, kind, arguments, timeout=timeout, connections=connections)

    def connect() -> BulkConnection:
        place = {}
        if address.topology == "sentinel":
            place = Server(*address.master(timeout=timeout))._asdict()
        connection = connected(kind, arguments | place, name=address.public, timeout=timeout)
        if address.topology == "sentinel":
            _require_master(connection, address.public)
        return BulkConnection(connection, timeout=timeout)

    return SingleRouter(address.public, connect, connections=connections, patient=address.patient)


class Router(ABC):
    """Which node holds which key. Thread-safe.

    patient: whether a server that fails is worth waiting for, since another will take its place
    only:    the node that holds all keys; None if that depends on the key
    """

    patient: bool
    only: Node | None = None

    @abstractmethod
    def nodes(self) -> list[Node]:
        """Every node that holds keys. Raises StoreUnavailable if that cannot be learned."""

    @abstractmethod
    def node_of(self, key: bytes) -> Node:
        """Raises StoreUnavailable if no node is known to hold `key`."""

    @abstractmethod
    def refresh(self, moves: Mapping[int, Server]) -> None:
        """Something was not where it should be: learn again; `moves` (by slot) are certain."""

    @abstractmethod
    def node_at(self, server: Server) -> Node:
        """A node that a server's redirection named."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect. The router stays usable."""


class SingleRouter(Router):
    """All keys on one node: one server, or whichever one `connect` finds to be the master."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], BulkConnection],
        *,
        connections: int,
        patient: bool = False,
    ) -> None:
        self.patient = patient
        self.only = self._node = Node(name, connect, connections=connections)

    def nodes(self) -> list[Node]:
        return [self._node]

    def node_of(self, key: bytes) -> Node:
        return self._node

    def refresh(self, moves: Mapping[int, Server]) -> None:
        self._node.disconnect()

    def node_at(self, server: Server) -> Node:
        raise StoreRefused(
            f"{self._node.name} is a member of a cluster; use a redis+cluster:// URL."
        )

    def close(self) -> None:
        self._node.disconnect()


class ClusterRouter(Router):
    """Keys spread over the masters of a cluster, by slot."""

    patient = True

    def __init__(
        self,
        seeds: Sequence[Server],
        kind: type[Any],
        arguments: Mapping[str, Any],
        *,
        timeout: float,
        connections: int,
    ) -> None:
        """seeds: members to ask first; kind, arguments: how redis-py connects to any member."""
        self._kind = kind
        self._arguments = arguments
        self._timeout = timeout
        self._connections = connections
        self._lock = threading.Lock()
        self._members = list(seeds)  # to ask for the map, in this order
        self._masters: list[Server | None] = []  # by slot; empty until it was asked for
        self._nodes: dict[Server, Node] = {}

    def nodes(self) -> list[Node]:
        with self._lock:
            self._learn_once()
            masters = sorted({server for server in self._masters if server is not None})
            return [self._node(server) for server in masters]

    def node_of(self, key: bytes) -> Node:
        slot = key_slot(key)
        with self._lock:
            self._learn_once()
            server = self._masters[slot]
            if server is None:
                raise StoreUnavailable(f"no member of the cluster serves slot {slot}.")
            return self._node(server)

    def refresh(self, moves: Mapping[int, Server]) -> None:
        with self._lock:
            try:
                self._learn()
            except StoreUnavailable:
                if not self._masters:
                    return  # asked again, and told, when the map is needed
            for slot, server in moves.items():
                self._masters[slot] = server
            masters = set(self._masters)
            unused = [node for server, node in self._nodes.items() if server not in masters]
        for node in unused:
            node.disconnect()

    def node_at(self, server: Server) -> Node:
        with self._lock:
            return self._node(server)

    def close(self) -> None:
        with self._lock:
            nodes = list(self._nodes.values())
        for node in nodes:
            node.disconnect()

    def _node(self, server: Server) -> Node:
        node = self._nodes.get(server)
        if node is None:
            node = Node(
                f"{server.host}:{server.port}",
                lambda: BulkConnection(
                    self._connected(server, timeout=self._timeout), timeout=self._timeout
                ),
                connections=self._connections,
            )
            self._nodes[server] = node
        return node

    def _learn_once(self) -> None:
        if not self._masters:
            self._learn()

    def _learn(self) -> None:
        """Ask the members in turn; each time another one first, since one may be cut off."""
        failed: StoreUnavailable | None = None
        for asked in list(self._members):
            self._members.remove(asked)
            self._members.append(asked)
            try:
                self._take(self._slots(asked), asked)
                return
            except StoreUnavailable as error:
                failed = error
        raise StoreUnavailable(f"no member of the cluster answers; the last: {failed}")

    def _take(self, ranges: Sequence[Sequence[Any]], asked: Server) -> None:
        masters: list[Server | None] = [None] * SLOTS
        found: dict[Server, None] = {}
        for first, last, *members in ranges:
            servers = [_server(member, asked) for member in members]
            masters[first : last + 1] = [servers[0]] * (last + 1 - first)
            found.update(dict.fromkeys(servers))
        self._masters = masters
        kept = [server for server in self._members if server not in found]
        self._members = [*(server for server in found if server != asked), *kept]
        if asked not in self._members:
            self._members.append(asked)

    def _slots(self, server: Server) -> Sequence[Sequence[Any]]:
        connection = self._connected(server, timeout=min(self._timeout, _MEMBER_TIMEOUT))
        try:
            connection.send_command("CLUSTER", "SLOTS")
            ranges: Sequence[Sequence[Any]] = connection.read_response()
        except ResponseError as error:
            raise StoreRefused(f"{server.host}:{server.port} is no cluster: {error}") from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{server.host}:{server.port} broke off: {error}") from error
        finally:
            connection.disconnect()
        if not ranges:
            raise StoreUnavailable(f"{server.host}:{server.port} knows of no slots.")
        return ranges

    def _connected(self, server: Server, *, timeout: float) -> Any:
        return connected(
            self._kind,
            {**self._arguments, "host": server.host, "port": server.port},
            name=f"{server.host}:{server.port}",
            timeout=timeout,
        )


def _server(member: Sequence[Any], asked: Server) -> Server:
    """A member as CLUSTER SLOTS names it; one that does not know its own name is at the same."""
    host = member[0].decode() if isinstance(member[0], bytes) else member[0]
    return Server(asked.host if host in (None, "", "?") else host, int(member[1]))


def _require_master(connection: Any, name: str) -> None:
    """Sentinels may still name a server that has been demoted. Disconnects from such a one."""
    try:
        connection.send_command("ROLE")
        role = connection.read_response()[0]
    except NoPermissionError as error:
        connection.disconnect()
        raise StoreRefused(f"the master of {name} refused a command: {error}") from error
    except (RedisError, OSError) as error:
        connection.disconnect()
        raise StoreUnavailable(f"the master of {name} broke off: {error}") from error
    if role != b"master":
        connection.disconnect()
        raise StoreUnavailable(f"the sentinels of {name} name a server that is not the master.")


def redirection(text: str, answered_by: str) -> tuple[int, Server]:
    """Slot and server of a `MOVED slot host:port` or `ASK slot host:port` reply."""
    _, slot, place = text.split(" ")[:3]
    host, _, port = place.rpartition(":")
    if host in ("", "?"):
        host = answered_by.rpartition(":")[0]
    return int(slot), Server(host, int(port))
