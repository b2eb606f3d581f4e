"""A Valkey cluster of our own on one machine, to see what several masters bring.

Its members listen on the loopback interface without a password: it is for benches and tests, not
for keeping anything that others on the machine must not see.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import redis
from redis.exceptions import RedisError

from state_store.embedded import EmbeddedServer
from state_store.errors import EmbeddedServerFailed

HOST = "127.0.0.1"
_SLOTS = 16384
_FORMED = 30.0  # seconds until members that were introduced have agreed
_PORTS = (15000, 32000)
_ATTEMPTS = 5  # at ports that are free when asked, and may be taken when used


class ClusterMember(EmbeddedServer):
    """One server of a cluster, which other members and clients reach by a port."""

    def __init__(self, data_dir: Path, *, node_timeout: int = 5000) -> None:
        """node_timeout: milliseconds without an answer after which others take it for dead"""
        super().__init__(data_dir)
        self.port = self._bus_port = 0
        self._node_timeout = node_timeout

    def start(self) -> None:
        """On ports of its own, which it keeps over restarts."""
        if self.port:
            super().start()
            return
        for attempt in range(_ATTEMPTS):
            self.port, self._bus_port = _free_ports(2)
            try:
                super().start()
                return
            except EmbeddedServerFailed:
                if attempt == _ATTEMPTS - 1:
                    self.port = 0
                    raise

    def client(self) -> redis.Redis:
        """To this member alone; the caller closes it."""
        return redis.Redis(host=HOST, port=self.port, socket_timeout=_FORMED)

    def _options(self) -> dict[str, str]:
        return super()._options() | {
            "--bind": HOST,
            "--port": str(self.port),
            "--cluster-enabled": "yes",
            "--cluster-config-file": str(self.data_dir / "nodes.conf"),
            "--cluster-port": str(self._bus_port),
            "--cluster-node-timeout": str(self._node_timeout),
        }


class EmbeddedCluster:
    """`masters` servers that share the slots evenly. Raises EmbeddedServerFailed."""

    def __init__(self, data_dir: Path, *, masters: int = 3) -> None:
        """masters: 1, or at least the 3 that a cluster needs to agree on anything"""
        self.members = [ClusterMember(data_dir / f"master-{number}") for number in range(masters)]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'{HOST}:{member.port}' for member in self.members)}"

    def start(self) -> None:
        try:
            for member in self.members:
                member.start()
            form_cluster(self.members)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for member in self.members:
            member.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def form_cluster(
    masters: Sequence[ClusterMember], replicas: Sequence[tuple[ClusterMember, ClusterMember]] = ()
) -> None:
    """Introduce running members to each other, unless they know each other from before.

    replicas: (replica, its master) each
    """
    members = [*masters, *(replica for replica, _ in replicas)]
    with contextlib.ExitStack() as stack:
        clients: dict[ClusterMember, Any] = {
            member: stack.enter_context(member.client()) for member in members
        }
        if _info(clients[masters[0]])["cluster_known_nodes"] == "1":
            _introduce(masters, members, clients)
        _wait(lambda: all(_knows(client, len(members)) for client in clients.values()))
        for replica, master in replicas:
            if clients[replica].info("replication")["role"] == "master":
                clients[replica].execute_command(
                    "CLUSTER REPLICATE", clients[master].execute_command("CLUSTER MYID")
                )
        _wait(lambda: all(_agrees(client, len(masters)) for client in clients.values()))
        _wait(lambda: all(_follows(clients[replica]) for replica, _ in replicas))


def _introduce(
    masters: Sequence[ClusterMember],
    members: Sequence[ClusterMember],
    clients: dict[ClusterMember, Any],
) -> None:
    bounds = [_SLOTS * number // len(masters) for number in range(len(masters) + 1)]
    for epoch, member in enumerate(members, start=1):
        clients[member].execute_command("CLUSTER SET-CONFIG-EPOCH", epoch)
    for master, first, after in zip(masters, bounds, bounds[1:], strict=False):
        clients[master].execute_command("CLUSTER ADDSLOTSRANGE", first, after - 1)
    for member in members[1:]:
        clients[members[0]].execute_command("CLUSTER MEET", HOST, member.port, member._bus_port)


def _knows(client: Any, members: int) -> bool:
    return _info(client)["cluster_known_nodes"] == str(members)


def _agrees(client: Any, masters: int) -> bool:
    info = _info(client)
    return info["cluster_state"] == "ok" and info["cluster_size"] == str(masters)


def _follows(client: Any) -> bool:
    return bool(client.info("replication").get("master_link_status") == "up")


def _info(client: Any) -> dict[str, str]:
    return dict(client.execute_command("CLUSTER INFO"))


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _FORMED
    while True:
        with contextlib.suppress(RedisError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise EmbeddedServerFailed(
                f"the members of the cluster did not agree within {_FORMED:g} s."
            )
        time.sleep(0.02)


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to outgoing connections: no client takes the port of a
    member that is being restarted."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
    return found
