"""How much is under way at once, over how many connections, and what comes of any cut of it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy import Proxy
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import Server

from state_store import dispatch, resp
from state_store.embedded import EmbeddedServer
from state_store.errors import StoreRefused, StoreUnavailable
from state_store.objects import ObjectClient

MIB = 1 << 20
SIZES = st.one_of(st.integers(0, 200), st.integers(0, 90_000), st.sampled_from([16_383, 65_536]))


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """A server of our own and a proxy before it."""
    path = tmp_path_factory.mktemp("flow")
    with EmbeddedServer(path / "store") as server, redis.Redis.from_url(server.url) as raw:
        proxy = Proxy(path / "proxy.sock", server.url)
        yield proxy, raw
        proxy.close()


@pytest.fixture
def flow(proxied):
    proxy, raw = proxied
    raw.flushall()
    raw.config_resetstat()
    proxy.piece, proxy.cut_after, proxy.stall_after = 1 << 16, None, None
    yield proxied
    proxy.flowing.set()


def calls(raw, command):
    return raw.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def settled(read):
    """What `read` gives once it no longer changes."""
    last = None
    while (now := read()) != last or now == 0:
        last = now
        time.sleep(0.05)
    return now


def cut_up(data, cuts):
    """`data` in consecutive pieces, some of them empty."""
    marks = sorted({min(cut, len(data)) for cut in cuts})
    edges = [0, *marks, *marks[-1:], len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def stalled(proxy, client, operation):
    """Runs `operation` with no reply coming through until the test lets it."""
    client.ping()
    proxy.flowing.clear()
    thread = threading.Thread(target=operation)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [300_000, MIB, 3 * MIB, 9 * MIB])
def test_a_reader_asks_for_no_more_than_a_window_ahead(flow, size):
    proxy, raw = flow
    for number in range(40):
        raw.set(f"k{number}", bytes(size))
    frame = memoryview(bytearray(size))
    client = ObjectClient(proxy.url, timeout=20.0)
    sizes = []
    reader = stalled(
        proxy,
        client,
        lambda: sizes.extend(client.get_into([(b"k%d" % n, frame) for n in range(40)])),
    )
    assert settled(lambda: calls(raw, "get")) == max(1, resp.WINDOW_BYTES // size)
    proxy.flowing.set()
    reader.join()
    client.close()
    assert sizes == [size] * 40


def test_a_writer_is_never_more_than_a_window_ahead_of_what_was_acknowledged(flow):
    proxy, raw = flow
    value = memoryview(bytes(MIB))
    client = ObjectClient(proxy.url, timeout=20.0)
    writer = stalled(
        proxy, client, lambda: client.put([(b"k%d" % n, value) for n in range(40)], ttl=60)
    )
    assert settled(lambda: calls(raw, "set")) == resp.WINDOW_BYTES // MIB
    proxy.flowing.set()
    writer.join()
    client.close()
    assert raw.dbsize() == 40


def test_small_commands_leave_few_replies_unread(flow):
    proxy, raw = flow
    client = ObjectClient(proxy.url, timeout=20.0)
    found = []
    asker = stalled(
        proxy, client, lambda: found.extend(client.exists([b"k%d" % n for n in range(5000)]))
    )
    assert settled(lambda: calls(raw, "exists")) <= 1024
    proxy.flowing.set()
    asker.join()
    client.close()
    assert found == [False] * 5000


def test_what_is_new_takes_one_command_and_only_what_is_there_is_prolonged(flow):
    proxy, raw = flow
    client = ObjectClient(proxy.url, timeout=20.0)
    items = [(b"k%d" % n, memoryview(b"%d" % n)) for n in range(100)]
    client.put(items[:40], ttl=60)
    assert (calls(raw, "set"), calls(raw, "expire")) == (40, 0)
    client.put(items, ttl=600)
    client.close()
    assert (calls(raw, "set"), calls(raw, "expire")) == (140, 40)
    assert all(raw.ttl(key) > 60 and raw.get(key) == value for key, value in items)


def test_what_expires_while_it_is_put_again_is_stored(flow):
    proxy, raw = flow
    client = ObjectClient(proxy.url, timeout=20.0)
    items = [(b"k%d" % n, b"mine %d" % n) for n in range(3)]
    client.put([(key, memoryview(value)) for key, value in items], ttl=60)
    placed = []
    writer = stalled(proxy, client, lambda: placed.extend(client.set_small_nx(items, ttl=600)))
    assert settled(lambda: calls(raw, "set") - 3) == 3
    raw.delete(b"k1")
    proxy.flowing.set()
    writer.join()
    client.close()
    assert placed == [False, True, False]
    assert all(raw.ttl(key) > 60 and raw.get(key) == value for key, value in items)


def test_values_of_other_lengths_arrive_across_the_edges_of_a_window(flow, monkeypatch):
    monkeypatch.setattr(resp, "WINDOW_BYTES", 450_000)
    proxy, _ = flow
    client = ObjectClient(proxy.url, timeout=20.0)
    seed = random.Random(0)
    values = [seed.randbytes(seed.choice([7, 600, 99_000, 200_000])) for _ in range(60)]
    items = [(b"k%d" % n, memoryview(value)) for n, value in enumerate(values)]
    client.put(items, ttl=60)
    frames = [memoryview(bytearray(len(value))) for value in values]
    asked = [(key, frame) for (key, _), frame in zip(items, frames, strict=True)]
    assert client.get_into(asked) == [len(value) for value in values]
    client.close()
    assert frames == values


def test_a_stall_amid_values_is_unavailable_after_the_timeout(flow):
    proxy, _ = flow
    client = ObjectClient(proxy.url, timeout=0.5)
    items = [(b"k%d" % n, memoryview(bytes(100_000))) for n in range(30)]
    client.put(items, ttl=60)
    frames = [(key, memoryview(bytearray(100_000))) for key, _ in items]
    proxy.stall_after = 1_050_000
    with pytest.raises(StoreUnavailable):
        client.get_into(frames)
    client.close()


def test_values_that_have_come_are_told_of_while_others_are_awaited(flow, monkeypatch):
    proxy, _ = flow
    monkeypatch.setattr(resp, "WINDOW_BYTES", 1_000_000)
    client = ObjectClient(proxy.url, timeout=5.0)
    values = [bytes([n]) * 100_000 for n in range(30)]
    client.put([(b"k%d" % n, memoryview(value)) for n, value in enumerate(values)], ttl=60)
    frames = [memoryview(bytearray(100_000)) for _ in values]
    asked = [(b"k%d" % n, frame) for n, frame in enumerate(frames)]
    told: list[int] = []

    def came(sizes):
        for place, size in sizes:
            assert (size, frames[place]) == (100_000, values[place])
            told.append(place)

    proxy.stall_after = 1_550_000
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(client.get_into, asked, came)
        assert settled(lambda: len(told)) in range(6, 16)
        assert not reading.done()
        proxy.stall_after = None
        proxy.flowing.set()
        assert reading.result(timeout=10) == [100_000] * 30
    assert told == list(range(30))
    client.close()


def test_one_who_is_told_of_values_may_fail_and_what_is_read_next_is_right(flow):
    proxy, _ = flow
    client = ObjectClient(proxy.url, timeout=5.0)
    values = [bytes([n]) * 3_000_000 for n in range(5)]
    client.put([(b"k%d" % n, memoryview(value)) for n, value in enumerate(values)], ttl=60)
    asked = [(b"k%d" % n, memoryview(bytearray(3_000_000))) for n in range(5)]

    def refuse(sizes):
        raise KeyError(len(sizes))

    with pytest.raises(KeyError):
        client.get_into(asked, refuse)
    again = [(key, memoryview(bytearray(3_000_000))) for key, _ in asked[::-1]]
    assert client.get_into(again) == [3_000_000] * 5
    assert [bytes(frame) for _, frame in again] == values[::-1]
    client.close()


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_whatever_is_cut_wherever_the_right_bytes_arrive_or_an_error(proxied, data):
    proxy, raw = proxied
    raw.flushall()
    proxy.cut_after = None
    proxy.piece = data.draw(st.sampled_from([7, 1000, 1 << 16]), "piece")
    room = 20_000 if proxy.piece == 7 else 400_000
    connections = data.draw(st.sampled_from([1, 1, 3]), "connections")
    seed = random.Random(data.draw(st.integers(0, 1 << 30), "seed"))
    stored = {}
    for number, size in enumerate(data.draw(st.lists(SIZES, max_size=12), "sizes")):
        if size <= room:
            room -= size
            stored[b"%032x:%d" % (seed.getrandbits(128), number)] = seed.randbytes(size)
    cuts = st.lists(st.integers(0, 100_000), max_size=4)
    with pytest.MonkeyPatch.context() as patch:
        # Small enough that a few small values take turns and are shared between connections.
        patch.setattr(resp, "WINDOW_BYTES", data.draw(st.sampled_from([1, 5000, 8 << 20]), "win"))
        patch.setattr(dispatch, "_SHARE_BYTES", 1000)
        client = ObjectClient(proxy.url, timeout=10.0, connections=connections)
        client.put(
            [(key, cut_up(memoryview(value), data.draw(cuts))) for key, value in stored.items()],
            ttl=60,
        )
        wanted = {}
        for key, value in stored.items():
            room_there = max(0, len(value) + data.draw(st.sampled_from([0, 0, 0, 5, -1, 9000])))
            wanted[key] = memoryview(bytearray(room_there))
        wanted[b"missing"] = memoryview(bytearray(data.draw(st.integers(0, 20_000))))
        keys = data.draw(st.permutations(list(wanted)), "order")
        asked = [(key, cut_up(wanted[key], data.draw(cuts))) for key in keys]
        proxy.cut_after = data.draw(st.one_of(st.none(), st.integers(0, 300_000)), "cut")
        told: dict[int, int | None] = {}
        try:
            sizes = client.get_into(asked, told.update)
        except StoreUnavailable:
            assert proxy.cut_after is not None
            proxy.cut_after = None
            told.clear()
            sizes = client.get_into(asked, told.update)
        assert [told[place] for place in range(len(keys))] == sizes
        for key, size in zip(keys, sizes, strict=True):
            value = stored.get(key)
            assert size == (None if value is None else len(value))
            if value is not None and len(value) <= len(wanted[key]):
                assert wanted[key][: len(value)] == value
        assert client.exists(keys) == [key in stored for key in keys]
        client.close()


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["value", "list", "missing", "large"]), min_size=1, max_size=12),
    connections=st.sampled_from([1, 2]),
)
def test_refusals_amid_a_pipeline_leave_every_connection_in_step(proxied, kinds, connections):
    proxy, raw = proxied
    proxy.cut_after, proxy.piece = None, 1 << 16
    raw.flushall()
    for number, kind in enumerate(kinds):
        if kind == "list":
            raw.rpush(f"k{number}", "x")
        elif kind != "missing":
            raw.set(f"k{number}", bytes([number]) * (500 if kind == "value" else 70_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_SHARE_BYTES", 1000)
        client = ObjectClient(proxy.url, timeout=5.0, connections=connections)
        frames = [memoryview(bytearray(500)) for _ in kinds]
        asked = [(b"k%d" % number, frame) for number, frame in enumerate(frames)]
        client.get_into([(b"missing", frames[0])] * 12)  # opens the connections
        before = raw.info("stats")["total_connections_received"]
        if "list" in kinds:
            with pytest.raises(StoreRefused, match="WRONGTYPE"):
                client.get_into(asked)
        fine = [ask for ask, kind in zip(asked, kinds, strict=True) if kind != "list"]
        expected = {"value": 500, "missing": None, "large": 70_000}
        assert client.get_into(fine) == [expected[kind] for kind in kinds if kind != "list"]
        for number, kind in enumerate(kinds):
            if kind == "value":
                assert frames[number] == bytes([number]) * 500
        assert raw.info("stats")["total_connections_received"] <= before + connections
        client.close()


def test_a_large_batch_uses_all_connections_and_a_small_one_only_one(flow):
    proxy, raw = flow
    client = ObjectClient(proxy.url, timeout=10.0, connections=3)
    items = [(b"k%d" % n, memoryview(random.Random(n).randbytes(MIB))) for n in range(7)]
    before = raw.info("stats")["total_connections_received"]
    client.put(items[:1], ttl=60)
    assert raw.info("stats")["total_connections_received"] == before + 1
    client.put(items, ttl=60)
    frames = [(key, memoryview(bytearray(MIB))) for key, _ in items]
    assert client.get_into(frames) == [MIB] * 7
    assert [frame.obj for _, frame in frames] == [value.obj for _, value in items]
    assert before + 2 <= raw.info("stats")["total_connections_received"] <= before + 3
    client.close()


def test_threads_share_a_client(flow):
    proxy, raw = flow
    client = ObjectClient(proxy.url, timeout=20.0, connections=2)
    before = raw.info("stats")["total_connections_received"]

    def work(worker):
        items = [
            (b"%d:%d" % (worker, n), memoryview(random.Random(worker + n).randbytes(300_000)))
            for n in range(8)
        ]
        for _ in range(5):
            client.put(items, ttl=60)
            frames = [(key, memoryview(bytearray(300_000))) for key, _ in items]
            assert client.get_into(frames) == [300_000] * 8
            assert [frame.obj for _, frame in frames] == [value.obj for _, value in items]

    with ThreadPoolExecutor(6) as workers:
        list(workers.map(work, range(6)))
    assert raw.info("stats")["total_connections_received"] <= before + 2
    client.close()


def test_all_connections_recover_from_a_restart_and_none_stays_open(own_server):
    client = ObjectClient(own_server.url, timeout=5.0, connections=3)
    items = [(b"k%d" % n, memoryview(random.Random(n).randbytes(MIB))) for n in range(6)]
    client.put(items, ttl=60)
    own_server.stop()
    own_server.start()
    client.put(items, ttl=60)
    frames = [(key, memoryview(bytearray(MIB))) for key, _ in items]
    assert client.get_into(frames) == [MIB] * 6
    assert [frame.obj for _, frame in frames] == [value.obj for _, value in items]
    client.close()
    with redis.Redis.from_url(own_server.url) as raw:
        while len(raw.client_list()) > 1:  # the test's time limit ends this
            time.sleep(0.01)


def test_a_killed_server_amid_a_parallel_read_is_one_error(own_server):
    client = ObjectClient(own_server.url, timeout=5.0, connections=3)
    items = [(b"k%d" % n, memoryview(random.Random(n).randbytes(MIB))) for n in range(30)]
    client.put(items, ttl=60)
    frames = [(key, memoryview(bytearray(MIB))) for key, _ in items]
    ended = []

    def read():
        try:
            while True:
                client.get_into(frames)
        except StoreUnavailable:
            ended.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    with redis.Redis.from_url(own_server.url) as raw:
        while calls(raw, "get") < 100:
            time.sleep(0.01)
    own_server.kill()
    reader.join()
    assert ended == [True]
    own_server.start()
    client.put(items, ttl=60)
    assert client.get_into(frames) == [MIB] * 30
    assert [frame.obj for _, frame in frames] == [value.obj for _, value in items]
    client.close()


def test_a_server_that_is_still_loading_is_waited_for(tmp_path):
    server = Server(tmp_path / "slow", options={"--key-load-delay": "300"})  # microseconds
    # It answers, that it is loading, after every 1024 commands.
    items = [(b"k%d" % n, memoryview(b"%09d" % n)) for n in range(10_000)]
    with server:
        client = ObjectClient(server.url, timeout=20.0)
        client.put(items, ttl=600)
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        with redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0)) as raw:
            assert until_it_answers(raw) == "loading"
        frames = [(key, memoryview(bytearray(9))) for key, _ in items]
        assert client.get_into(frames) == [9] * 10_000
        assert all(frame == value for (_, frame), (_, value) in zip(frames, items, strict=True))
    finally:
        starting.join()
        client.close()
        server.stop()


def until_it_answers(raw):
    while True:
        try:
            raw.get("k1")
        except redis.exceptions.BusyLoadingError:
            return "loading"
        except redis.ConnectionError:
            time.sleep(0.001)
        else:
            return "ready"
