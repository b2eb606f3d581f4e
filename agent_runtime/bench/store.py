"""`torpor bench store`: how close the bulk path comes to the socket that it runs on.

raw          one connection beside a plain socket, and beside redis-py
lmcache      one connection over TCP beside LMCache's client, a C++ extension
connections  one server over 1, 2 and 4 connections, beside as many plain sockets
masters      a cluster of one master, and of three
memory       what the server keeps for one object, by how payloads are cut
sealed       pages of an encrypted tenant beside the same in the clear

Servers are embedded ones without their log, whose writing would hide what a client costs. What is
compared runs in turn, the first of one round last in the next, and ratios are medians of rounds'
ratios: whatever else the machine does meets both.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import redis

from agent_runtime.bench.peers.lmcache import LMCacheClient
from agent_runtime.bench.spread import quartiles
from engine.launch import free_port
from state_store.cipher import KEY_BYTES
from state_store.codec import HEADER_BYTES, Frame
from state_store.embedded import EmbeddedServer
from state_store.embedded_cluster import EmbeddedCluster
from state_store.encodings import ECONOMIES, LOSSLESS
from state_store.forms import StoredForm
from state_store.layout import PART_BYTES, ObjectNames, ObjectRef
from state_store.objects import ObjectClient
from state_store.payloads import Item, Outcome, Payloads
from state_store.vault import MasterKey, Vault

GOALS = {"raw": 0.8, "redis_py": 3.0, "lmcache": 1.0}
"""Of a plain socket's throughput, of redis-py's and of LMCache's client's, at every size and both
ways."""

_SIZES = (64 << 10, 256 << 10, 1 << 20, 4 << 20)
_CONNECTIONS = (1, 2, 4)
_MASTERS = (1, 3)
_WINDOW = 8 << 20  # bytes that plain sockets and redis-py have under way, as the bulk path has
_TTL = 3600

Action = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """sizes:       bytes of the values that a plain socket is compared on
    rounds:      of each contender
    round_bytes: moved in one of them
    """

    sizes: Sequence[int]
    rounds: int
    round_bytes: int


FULL = Effort(sizes=_SIZES, rounds=31, round_bytes=64 << 20)
QUICK = Effort(sizes=(64 << 10, 4 << 20), rounds=1, round_bytes=8 << 20)


def measure(effort: Effort = FULL) -> Iterator[dict[str, Any]]:
    """The records, as they are measured. The last says which goals were missed."""
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        with EmbeddedServer(Path(folder) / "one") as server, redis.from_url(server.url) as control:
            control.config_set("appendonly", "no")
            for size in effort.sizes:
                record = one_connection(server.url, size, effort)
                missed += [f"{name} at {size}" for name in record["loses"]]
                yield record
            for size in effort.sizes:
                record = beside_lmcache(control, size, effort)
                missed += [f"{name} at {size}" for name in record["loses"]]
                yield record
            yield connections(server.url, lambda: _flush(control), effort)
            yield memory(server.url, control, effort)
            yield sealed(server.url, lambda: _flush(control), effort)
        yield masters(Path(folder), effort)
    yield {
        "measure": "goal", **{f"ratio_{peer}": least for peer, least in GOALS.items()},
        "met": not missed, "missed": missed,
    }  # fmt: skip


def one_connection(url: str, size: int, effort: Effort) -> dict[str, Any]:
    """Values of `size` bytes, from and into one buffer each that stays in use."""
    keys = [b"bench:{%032x}" % number for number in range(max(1, effort.round_bytes // size))]
    value = memoryview(np.random.default_rng(0).bytes(size))
    frame = memoryview(bytearray(value))  # touched
    copied = bytes(value)
    with ExitStack() as stack:
        ours = _client(stack, url, 1)
        plain = stack.enter_context(PlainSocket(url, value))
        theirs = stack.enter_context(redis.from_url(url))
        puts: dict[str, Action] = {
            "torpor": lambda: ours.put([(key, value) for key in keys], ttl=_TTL),
            "raw": lambda: plain.put(keys),
            "redis_py": lambda: _redis_py(theirs, "SET", keys, copied),
        }
        gets: dict[str, Action] = {
            "torpor": lambda: ours.get_into([(key, frame) for key in keys]),
            "raw": lambda: plain.get(keys),
            "redis_py": lambda: _redis_py(theirs, "GET", keys, copied),
        }
        times = {"put": _in_turn(puts, effort.rounds, before=lambda: _flush(theirs))}
        times["get"] = _in_turn(gets, effort.rounds)
        if frame != value:
            raise AssertionError("what was read is not what was written")
        _flush(theirs)
    record: dict[str, Any] = {"measure": "raw", "value_bytes": size, "values": len(keys)}
    for way in ("get", "put"):
        record[f"{way}_gb_s"] = _rate(size * len(keys), times[way]["torpor"])
        record[f"{way}_raw_gb_s"] = _rate(size * len(keys), times[way]["raw"])
        for other in ("raw", "redis_py"):
            record |= _compared(way, times[way], other)
    return record | {"loses": _losses(record)}


def beside_lmcache(control: redis.Redis, size: int, effort: Effort) -> dict[str, Any]:
    """Both over TCP, which is all that LMCache's client speaks; its puts are bare `SET`s."""
    port = free_port()
    control.config_set("bind", "127.0.0.1")
    control.config_set("port", port)
    keys = [f"bench:{{{number:032x}}}" for number in range(max(1, effort.round_bytes // size))]
    value = memoryview(bytearray(np.random.default_rng(0).bytes(size)))
    frames = [memoryview(bytearray(size)) for _ in keys]
    items = [(key.encode(), value) for key in keys]
    targets = [(key.encode(), frame) for key, frame in zip(keys, frames, strict=True)]
    with ExitStack() as stack:
        stack.callback(control.config_set, "port", 0)
        ours = _client(stack, f"redis://127.0.0.1:{port}", 1)
        theirs = stack.enter_context(contextlib.closing(LMCacheClient("127.0.0.1", port)))
        puts: dict[str, Action] = {
            "torpor": lambda: ours.put(items, ttl=_TTL),
            "lmcache": lambda: theirs.put(keys, [value] * len(keys)),
        }
        gets: dict[str, Action] = {
            "torpor": lambda: ours.get_into(targets),
            "lmcache": lambda: theirs.get_into(keys, frames),
        }
        times = {"put": _in_turn(puts, effort.rounds, before=lambda: _flush(control))}
        times["get"] = _in_turn(gets, effort.rounds)
        if any(frame != value for frame in frames):
            raise AssertionError("what was read is not what was written")
        _flush(control)
    record: dict[str, Any] = {"measure": "lmcache", "value_bytes": size, "values": len(keys)}
    for way in ("get", "put"):
        record[f"{way}_gb_s"] = _rate(size * len(keys), times[way]["torpor"])
        record |= _compared(way, times[way], "lmcache")
    names = [f"{way}_ratio_lmcache" for way in ("get", "put")]
    return record | {"loses": [name for name in names if record[name] < 1]}


def connections(url: str, flush: Action, effort: Effort) -> dict[str, Any]:
    """The largest parts over more connections to one server; speedups are over one connection.

    Then beside as many plain sockets, in a thread each: where a server and a client keep all cores
    busy with one connection, nobody is faster with more.
    """
    with ExitStack() as stack:
        clients = {number: _client(stack, url, number) for number in _CONNECTIONS}
        record = {"measure": "connections", **_spread(clients, flush, effort)}
        value = memoryview(np.random.default_rng(0).bytes(PART_BYTES))
        keys = [b"bench:{%032x}" % number for number in range(record["values"])]
        puts: dict[str, Action] = {}
        gets: dict[str, Action] = {}
        for number, ours in clients.items():
            plain = stack.enter_context(PlainSockets(url, value, number))
            frames = [memoryview(bytearray(value)) for _ in range(number)]  # one each, as they have
            places = [(key, frames[at * number // len(keys)]) for at, key in enumerate(keys)]
            puts[f"raw {number}"] = partial(plain.put, keys)
            gets[f"raw {number}"] = partial(plain.get, keys)
            puts[f"torpor {number}"] = partial(ours.put, [(k, value) for k in keys], ttl=_TTL)
            gets[f"torpor {number}"] = partial(ours.get_into, places)
        put = _in_turn(puts, effort.rounds, before=flush)
        for way, times in (("get", _in_turn(gets, effort.rounds)), ("put", put)):
            record[f"{way}_ratio_sockets"] = {
                str(number): _speedup(times, f"torpor {number}", f"raw {number}")
                for number in clients
            }
            record[f"{way}_sockets_speedup"] = {
                str(number): _speedup(times, f"raw {number}", f"raw {_CONNECTIONS[0]}")
                for number in clients
            }
        flush()
        return record


def masters(folder: Path, effort: Effort) -> dict[str, Any]:
    """The largest parts over one connection to each master; speedups are over one master."""
    with ExitStack() as stack:
        clients, controls = {}, []
        for number in _MASTERS:
            cluster = stack.enter_context(EmbeddedCluster(folder / str(number), masters=number))
            controls += [stack.enter_context(member.client()) for member in cluster.members]
            clients[number] = _client(stack, cluster.url, 1)
        for control in controls:
            control.config_set("appendonly", "no")

        def flush() -> None:
            for control in controls:
                _flush(control)

        return {"measure": "masters", **_spread(clients, flush, effort)}


def memory(url: str, control: redis.Redis, effort: Effort) -> dict[str, Any]:
    """What the server keeps for one object beyond its bytes, as a share of them: for a payload of
    the size that parts are cut at, and for one of 4 MiB. It depends on the server's allocator."""
    client = ObjectClient(url, timeout=60.0)
    record: dict[str, Any] = {"measure": "memory", "part_bytes": PART_BYTES}
    record["allocator"] = _memory(control)["mem_allocator"]
    for name, payload in (("part", PART_BYTES), ("4_mib", 4 << 20)):
        value = memoryview(bytes(HEADER_BYTES + payload))
        count = max(2, effort.round_bytes // payload)
        _flush(control)
        client.put([(b"first", value)], ttl=_TTL)  # the connection has its buffers now
        before = _memory(control)["used_memory"]
        client.put([(b"%032x" % number, value) for number in range(count)], ttl=_TTL)
        used = (_memory(control)["used_memory"] - before) / count
        record[f"{name}_overhead"] = round(used / len(value) - 1, 4)
    _flush(control)
    client.close()
    return record


def sealed(url: str, flush: Action, effort: Effort) -> dict[str, Any]:
    """As engines write and read pages, each side over a connection of its own: sums are made and
    checked on both, and on one side payloads are encrypted and decrypted where they are."""
    names = ObjectNames("bench", "0" * 32, 0)
    vault = Vault([MasterKey(secrets.token_bytes(KEY_BYTES))])
    tenant_key = vault.open(vault.new_tenant_key("bench"), "bench")
    count = max(2, effort.round_bytes // PART_BYTES)
    value = np.random.default_rng(0).bytes(PART_BYTES)
    frames = [
        Frame(memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(value)))
        for _ in range(count)
    ]
    items = [(ObjectRef("kv", f"{at:064x}"), frame) for at, frame in enumerate(frames)]

    def refill() -> None:
        """What was written is ciphertext now, and its header says so."""
        flush()
        for frame in frames:
            frame.header[:] = bytes(HEADER_BYTES)
            frame.payload[:] = value

    with ExitStack() as stack:
        plain = Payloads(_client(stack, url, 1), names)
        hidden = Payloads(
            _client(stack, url, 1), names, form=StoredForm(ECONOMIES[LOSSLESS], {}, tenant_key)
        )
        times = {}
        times["put"] = _in_turn(
            {name: partial(door.write, items, ttl=_TTL) for name, door in
             (("torpor", hidden), ("plain", plain))},
            effort.rounds, before=refill,
        )  # fmt: skip
        record: dict[str, Any] = {"measure": "sealed", "value_bytes": PART_BYTES, "values": count}
        # Both have objects of their own names, which stay for all rounds of reads.
        refill()
        hidden.write(items, ttl=_TTL)
        others = [(ObjectRef("state", ref.page_hash), frame) for ref, frame in items]
        for frame in frames:
            frame.payload[:] = value
        plain.write(others, ttl=_TTL)
        times["get"] = _in_turn(
            {"torpor": lambda: _all_read(hidden, items), "plain": lambda: _all_read(plain, others)},
            effort.rounds,
        )
        flush()
    for way in ("get", "put"):
        record[f"{way}_gb_s"] = _rate(count * PART_BYTES, times[way]["torpor"])
        record[f"{way}_plain_gb_s"] = _rate(count * PART_BYTES, times[way]["plain"])
        record |= _compared(way, times[way], "plain")
    return record


class PlainSocket:
    """The plainest client there can be: it knows every reply, and checks only where each begins.

    Values go out by `sendall` from, and come in by `recv_into` to, one buffer each that has been
    touched and stays in use, with as much under way as the bulk path has.
    """

    def __init__(self, url: str, value: memoryview) -> None:
        """url: unix://; value: what every key holds"""
        self._head = b"$%d\r\n" % len(value)
        self._block = max(1, _WINDOW // len(value) // 2)
        before, self._key = b"*3\r\n$3\r\nSET\r\n$40\r\n", 40  # bytes of a key
        self._at = len(before)
        self._command = bytearray(
            before + bytes(self._key) + b"\r\n" + self._head + value + b"\r\n"
        )
        self._reply = memoryview(bytearray(self._head + value + b"\r\n"))
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(url.removeprefix("unix://"))

    def __enter__(self) -> PlainSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(self, keys: Sequence[bytes]) -> None:
        blocks = self._blocks(keys)
        self._ask(blocks[0])
        for number, asked in enumerate(blocks):
            if number + 1 < len(blocks):
                self._ask(blocks[number + 1])
            for _ in asked:
                self._receive(self._reply)
                if self._reply[: len(self._head)] != self._head:
                    raise AssertionError("the server does not hold what was written")

    def put(self, keys: Sequence[bytes]) -> None:
        ahead = 0
        for block in self._blocks(keys):
            for key in block:
                self._command[self._at : self._at + self._key] = key
                self._socket.sendall(self._command)
            self._acknowledged(ahead)
            ahead = len(block)
        self._acknowledged(ahead)

    def _blocks(self, keys: Sequence[bytes]) -> list[Sequence[bytes]]:
        """Two of them fill the window."""
        return [keys[at : at + self._block] for at in range(0, len(keys), self._block)]

    def _ask(self, keys: Sequence[bytes]) -> None:
        self._socket.sendall(b"".join(b"*2\r\n$3\r\nGET\r\n$40\r\n%b\r\n" % key for key in keys))

    def _acknowledged(self, count: int) -> None:
        replies = memoryview(bytearray(count * len(b"+OK\r\n")))
        self._receive(replies)
        if replies != b"+OK\r\n" * count:
            raise AssertionError("the server refused a value")

    def _receive(self, target: memoryview) -> None:
        at = 0
        while at < len(target):
            count = self._socket.recv_into(target[at:])
            if not count:
                raise AssertionError("the server closed the connection")
            at += count


class PlainSockets:
    """As many, in a thread each; each has a run of the keys."""

    def __init__(self, url: str, value: memoryview, count: int) -> None:
        self._sockets = [PlainSocket(url, value) for _ in range(count)]
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> PlainSockets:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
        for one in self._sockets:
            one.__exit__()

    def get(self, keys: Sequence[bytes]) -> None:
        list(self._threads.map(PlainSocket.get, self._sockets, self._runs(keys)))

    def put(self, keys: Sequence[bytes]) -> None:
        list(self._threads.map(PlainSocket.put, self._sockets, self._runs(keys)))

    def _runs(self, keys: Sequence[bytes]) -> list[Sequence[bytes]]:
        each = -(-len(keys) // len(self._sockets))
        return [keys[at : at + each] for at in range(0, len(keys), each)]


def _all_read(payloads: Payloads, items: Sequence[Item]) -> None:
    if set(payloads.read(items)) != {Outcome.OK}:
        raise AssertionError("what was read is not what was written")


def _redis_py(client: redis.Redis, command: str, keys: Sequence[bytes], value: bytes) -> None:
    """Pipelines of a window each."""
    step = max(1, _WINDOW // len(value))
    for at in range(0, len(keys), step):
        pipeline: Any = client.pipeline(transaction=False)
        for key in keys[at : at + step]:
            pipeline.execute_command(command, key, *([value] if command == "SET" else []))
        pipeline.execute()


def _compared(way: str, times: Mapping[str, Sequence[float]], other: str) -> dict[str, Any]:
    """Our throughput over the other's."""
    ratios = _ratios(times, "torpor", other)
    return {
        f"{way}_ratio_{other}": round(statistics.median(ratios), 3),
        f"{way}_ratio_{other}_quartiles": quartiles(ratios, 3),
    }


def _losses(record: Mapping[str, Any]) -> list[str]:
    """Which of its ratios do not reach their goal."""
    return [
        f"{way}_ratio_{other}"
        for way in ("get", "put")
        for other in ("raw", "redis_py")
        if record[f"{way}_ratio_{other}"] < GOALS[other]
    ]


def _spread(clients: Mapping[int, ObjectClient], flush: Action, effort: Effort) -> dict[str, Any]:
    """GB/s of each client, and how much faster it is than the first."""
    values = [memoryview(np.random.default_rng(n).bytes(PART_BYTES)) for n in range(4)]
    count = max(4, effort.round_bytes // PART_BYTES)
    items = [(b"bench:{%032x}" % number, values[number % 4]) for number in range(count)]
    frames = [(key, memoryview(bytearray(value))) for key, value in items]

    def putting(client: ObjectClient) -> Action:
        return lambda: client.put(items, ttl=_TTL)

    def getting(client: ObjectClient) -> Action:
        return lambda: client.get_into(frames)

    record: dict[str, Any] = {"value_bytes": PART_BYTES, "values": count}
    puts = {str(number): putting(client) for number, client in clients.items()}
    gets = {str(number): getting(client) for number, client in clients.items()}
    put = _in_turn(puts, effort.rounds, before=flush)
    for client in clients.values():  # each may have a server of its own
        client.put(items, ttl=_TTL)
    for way, times in (("get", _in_turn(gets, effort.rounds)), ("put", put)):
        first = next(iter(times))
        record[f"{way}_gb_s"] = {name: _rate(count * PART_BYTES, times[name]) for name in times}
        record[f"{way}_speedup"] = {name: _speedup(times, name, first) for name in times}
    flush()
    return record


def _client(stack: ExitStack, url: str, connections: int) -> ObjectClient:
    client = ObjectClient(url, timeout=60.0, connections=connections)
    stack.callback(client.close)
    return client


def _in_turn(
    contenders: Mapping[str, Action], rounds: int, *, before: Action = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one round that does not count.

    before: what is done, and not measured, before each turn
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            before()
            start = time.perf_counter()
            contenders[name]()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def _speedup(times: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """How many times the throughput of the other one has, in the median round."""
    return round(statistics.median(_ratios(times, one, other)), 3)


def _ratios(times: Mapping[str, Sequence[float]], one: str, other: str) -> list[float]:
    """The same in every round."""
    pairs = zip(times[one], times[other], strict=True)
    return [theirs / ours for ours, theirs in pairs]


def _rate(size: int, times: Sequence[float]) -> float:
    """GB/s in the median round."""
    return round(size / statistics.median(times) / 1e9, 3)


def _flush(control: Any) -> None:
    """Now: by default servers free in the background, beside what is measured next."""
    control.execute_command("FLUSHALL", "SYNC")


def _memory(control: Any) -> dict[str, Any]:
    return dict(control.info("memory"))
