"""The bulk path: every byte arrives where the caller wants it, and the connection stays in step."""

from __future__ import annotations

import random
import tracemalloc
from array import array

import pytest
import redis
from proxy import Proxy
from servers import BUILDS, Server

from state_store.codec import HEADER_BYTES
from state_store.errors import StoreFull, StoreRefused, StoreUnavailable
from state_store.layout import PART_BYTES
from state_store.objects import ObjectClient

MIB = 1 << 20


@pytest.fixture
def proxy(server, tmp_path):
    running = Proxy(tmp_path / "proxy.sock", server.url)
    yield running
    running.close()


@pytest.fixture
def through_proxy(proxy):
    client = ObjectClient(proxy.url, timeout=5.0)
    yield client
    client.close()


def values_of(prefix, *sizes):
    return [
        (f"{prefix}:{index}".encode(), memoryview(random.Random(index).randbytes(size)))
        for index, size in enumerate(sizes)
    ]


def sizes_of(items):
    return [len(value) for _, value in items]


def frames_for(items):
    return [(key, memoryview(bytearray(len(value)))) for key, value in items]


@pytest.mark.parametrize("size", [0, 1, 2, 65_534, 65_535, 65_536, 65_537, 3 * MIB + 1])
def test_a_value_of_any_size_comes_back_as_it_was(objects, prefix, size):
    items = values_of(prefix, size)
    frames = frames_for(items)
    objects.put(items, ttl=60)
    assert objects.get_into(frames) == sizes_of(items)
    assert frames[0][1] == items[0][1]


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_values_split_anywhere_across_reads_are_whole(objects, through_proxy, proxy, prefix, piece):
    items = values_of(prefix, 0, 1, 900, 5_000, 13)
    objects.put(items, ttl=60)
    proxy.piece = piece
    frames = [*frames_for(items), (b"missing", memoryview(bytearray(3)))]
    assert through_proxy.get_into(frames) == [*sizes_of(items), None]
    assert [bytes(frame) for _, frame in frames[:5]] == [bytes(value) for _, value in items]


def test_values_that_contain_protocol_bytes_are_not_misread(objects, prefix):
    items = [(f"{prefix}:{i}".encode(), memoryview(b"\r\n$5\r\n-ERR x\r\n" * i)) for i in range(9)]
    frames = frames_for(items)
    objects.put(items, ttl=60)
    assert objects.get_into(frames) == sizes_of(items)
    assert [bytes(frame) for _, frame in frames] == [bytes(value) for _, value in items]


@pytest.mark.parametrize("stored", [0, 10, 99, 100, 101, 200_000])
def test_a_value_of_another_size_is_taken_if_it_fits_and_the_next_is_right(
    objects, raw, prefix, stored
):
    raw.set(f"{prefix}:odd", b"\r\n" * (stored // 2) + b"x" * (stored % 2))
    (good,) = values_of(prefix, 500)
    objects.put([good], ttl=60)
    before = raw.info("stats")["total_connections_received"]
    odd, frame = memoryview(bytearray(100)), memoryview(bytearray(500))
    results = objects.get_into([(f"{prefix}:odd".encode(), odd), (good[0], frame)])
    assert results == [stored, 500]
    assert frame == good[1]
    if stored <= 100:
        assert odd[:stored] == raw.get(f"{prefix}:odd")
    assert raw.info("stats")["total_connections_received"] == before


def test_a_read_that_the_server_refuses_leaves_the_connection_in_step(objects, raw, prefix):
    raw.rpush(f"{prefix}:list", "x")
    (good,) = values_of(prefix, 500)
    objects.put([good], ttl=60)
    before = raw.info("stats")["total_connections_received"]
    frame = memoryview(bytearray(500))
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        objects.get_into([(f"{prefix}:list".encode(), frame), (good[0], frame)])
    assert objects.get_into([(good[0], frame)]) == [500]
    assert frame == good[1]
    assert raw.info("stats")["total_connections_received"] == before


def test_exists_answers_for_more_keys_than_one_batch_holds(objects, prefix):
    items = values_of(prefix, *[1] * 700)
    objects.put(items[::2], ttl=60)
    assert objects.exists([key for key, _ in items]) == [True, False] * 350


def test_empty_operations_ask_nothing(objects):
    objects.put([], ttl=60)
    assert objects.get_into([]) == []
    assert objects.exists([]) == []
    assert objects.get_small([]) == []
    assert objects.set_small_nx([], ttl=60) == []


def test_values_are_gathered_and_scattered_over_several_buffers(objects, raw, prefix):
    key, whole = f"{prefix}:x".encode(), random.Random(0).randbytes(1000)
    view = memoryview(whole)
    objects.put([(key, (view[:0], view[:128], view[128:999], view[999:]))], ttl=60)
    assert raw.get(key) == whole
    targets = [memoryview(bytearray(size)) for size in (1, 0, 600, 399)]
    assert objects.get_into([(key, targets)]) == [1000]
    assert b"".join(targets) == whole
    objects.replace([(key, (view[500:], view[:500]))], ttl=60)
    assert raw.get(key) == whole[500:] + whole[:500]


def test_more_buffers_than_one_system_call_takes(objects, raw, prefix):
    key, whole = f"{prefix}:x".encode(), random.Random(0).randbytes(7000)
    objects.put([(key, [memoryview(whole)[at : at + 2] for at in range(0, 7000, 2)])], ttl=60)
    assert raw.get(key) == whole
    frame = memoryview(bytearray(7000))
    assert objects.get_into([(key, [frame[at : at + 1] for at in range(7000)])]) == [7000]
    assert frame == whole


def test_a_buffer_of_larger_items_counts_its_bytes(objects, raw, prefix):
    numbers = memoryview(array("q", range(10)))
    objects.put([(f"{prefix}:n".encode(), numbers)], ttl=60)
    assert raw.get(f"{prefix}:n") == numbers.tobytes()
    target = memoryview(array("q", [0] * 10))
    assert objects.get_into([(f"{prefix}:n".encode(), target)]) == [80]
    assert target == numbers


def test_small_values_are_set_once_and_live_as_long_as_the_last_wants(objects, raw, prefix):
    items = [(f"{prefix}:{number}".encode(), b"mine %d" % number) for number in range(2000)]
    raw.set(items[7][0], b"theirs", ex=10)
    placed = objects.set_small_nx(items, ttl=500)
    assert placed == [number != 7 for number in range(2000)]
    keys = [*(key for key, _ in items), b"missing"]
    values = [value for _, value in items]
    assert objects.get_small(keys) == [*values[:7], b"theirs", *values[8:], None]
    assert raw.ttl(items[7][0]) > 400
    assert raw.ttl(items[8][0]) > 400


def test_a_large_value_where_a_small_one_belongs_is_refused(objects, raw, prefix):
    raw.set(f"{prefix}:large", bytes(MIB + 1))
    raw.set(f"{prefix}:small", bytes(MIB))
    objects.ping()
    before = raw.info("stats")["total_connections_received"]
    with pytest.raises(StoreRefused, match="1048577 bytes"):
        objects.get_small([f"{prefix}:large".encode(), f"{prefix}:small".encode()])
    assert objects.get_small([f"{prefix}:small".encode()]) == [bytes(MIB)]
    assert raw.info("stats")["total_connections_received"] == before


def test_bytes_go_between_socket_and_the_callers_buffer_without_a_copy(objects, prefix):
    items = values_of(prefix, 8 * MIB)
    frames = frames_for(items)
    objects.ping()
    tracemalloc.start()
    try:
        objects.put(items, ttl=60)
        assert objects.get_into(frames) == sizes_of(items)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MIB // 2
    assert frames[0][1].obj == items[0][1].obj


def test_put_leaves_an_object_that_is_there_as_it_is(objects, raw, prefix):
    (first,) = values_of(prefix, 100)
    objects.put([first], ttl=60)
    objects.put([(first[0], memoryview(b"other"))], ttl=60)
    assert raw.get(first[0]) == bytes(first[1])


@pytest.mark.parametrize(("first", "second", "left"), [(60, 500, 500), (500, 60, 500)])
def test_put_never_shortens_a_life(objects, raw, prefix, first, second, left):
    items = values_of(prefix, 10)
    objects.put(items, ttl=first)
    objects.put(items, ttl=second)
    assert left - 5 <= raw.ttl(items[0][0]) <= left


def test_put_never_lets_a_pinned_object_expire(objects, raw, prefix):
    items = values_of(prefix, 10)
    objects.put(items, ttl=60)
    raw.persist(items[0][0])
    objects.put(items, ttl=60)
    assert raw.ttl(items[0][0]) == -1


def test_replace_heals_an_object_and_keeps_its_expiry_or_pin(objects, raw, prefix):
    pinned, expiring = values_of(prefix, 10, 20)
    objects.put([pinned, expiring], ttl=500)
    raw.persist(pinned[0])
    for key, _ in (pinned, expiring):
        raw.setrange(key, 3, b"\xff\xff")
    objects.replace([pinned, expiring], ttl=60)
    assert [raw.get(pinned[0]), raw.get(expiring[0])] == [bytes(pinned[1]), bytes(expiring[1])]
    assert raw.ttl(pinned[0]) == -1
    assert raw.ttl(expiring[0]) > 400


def test_replace_puts_an_object_that_has_gone_meanwhile(objects, raw, prefix):
    items = values_of(prefix, 10)
    objects.replace(items, ttl=60)
    assert raw.get(items[0][0]) == bytes(items[0][1])
    assert 0 < raw.ttl(items[0][0]) <= 60


def test_a_full_store_refuses_a_write_and_the_connection_stays_in_step(own_server):
    client = ObjectClient(own_server.url, timeout=5.0)
    with redis.Redis.from_url(own_server.url) as raw:
        items = values_of("x", 1000, 2000)
        client.put(items[:1], ttl=60)
        before = raw.info("stats")["total_connections_received"]
        raw.config_set("maxmemory", 1)
        with pytest.raises(StoreFull, match="OOM"):
            client.put(items, ttl=60)
        frames = frames_for(items)
        assert client.get_into(frames) == [1000, None]
        assert frames[0][1] == items[0][1]
        raw.config_set("maxmemory", 0)
        client.put(items, ttl=60)
        assert client.get_into(frames) == sizes_of(items)
        assert raw.info("stats")["total_connections_received"] == before
    client.close()


@pytest.mark.parametrize("cut_after", [0, 1, 4, 300, 999_999])
def test_a_connection_cut_anywhere_in_a_reply_is_unavailable_and_then_recovers(
    objects, through_proxy, proxy, prefix, cut_after
):
    items = values_of(prefix, 500_000, 500_000)
    frames = frames_for(items)
    objects.put(items, ttl=60)
    through_proxy.ping()
    proxy.cut_after = cut_after
    with pytest.raises(StoreUnavailable):
        through_proxy.get_into(frames)
    proxy.cut_after = None
    assert through_proxy.get_into(frames) == sizes_of(items)
    assert [frame.obj for _, frame in frames] == [value.obj for _, value in items]


def test_a_stale_connection_is_reopened_without_the_caller_noticing(own_server):
    client = ObjectClient(own_server.url, timeout=5.0)
    items = values_of("x", 100)
    client.put(items, ttl=60)
    own_server.stop()
    own_server.start()
    frames = frames_for(items)
    assert client.get_into(frames) == sizes_of(items)
    assert frames[0][1] == items[0][1]
    client.close()


def test_a_killed_server_is_unavailable_until_it_is_back(own_server):
    client = ObjectClient(own_server.url, timeout=5.0)
    items = values_of("x", 100)
    client.put(items, ttl=60)
    own_server.kill()
    for operation in (
        client.ping,
        lambda: client.put(items, ttl=60),
        lambda: client.replace(items, ttl=60),
        lambda: client.get_into(frames_for(items)),
        lambda: client.exists([b"x"]),
    ):
        with pytest.raises(StoreUnavailable):
            operation()
    own_server.start()
    client.put(items, ttl=60)
    assert client.exists([items[0][0]]) == [True]
    client.close()


def test_a_server_that_stalls_is_unavailable_after_the_timeout(own_server):
    client = ObjectClient(own_server.url, timeout=0.2)
    client.ping()
    with redis.Redis.from_url(own_server.url) as raw:
        raw.client_pause(1500)
        with pytest.raises(StoreUnavailable):
            client.exists([b"x"])
    client.close()


@pytest.mark.parametrize("then", ["missing", "empty", "small", "list", "large"])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("before", [1, 2, 5])
def test_nothing_is_waited_for_that_does_not_come_behind_values(
    objects, raw, prefix, then, count, before
):
    """Receiving a value reads ahead into the next reply, which may be shorter than it should."""
    (good,) = values_of(prefix, 100_000)
    objects.put([good], ttl=60)
    frames = [(good[0], memoryview(bytearray(100_000))) for _ in range(before)]
    for number in range(count):
        key = f"{prefix}:then:{number}".encode()
        if then == "list":
            raw.rpush(key, "x")
        elif then != "missing":
            raw.set(key, {"empty": b"", "small": b"x", "large": b"y" * 200_000}[then])
        frames.append((key, memoryview(bytearray(100_000))))
    if then == "list":
        with pytest.raises(StoreRefused, match="WRONGTYPE"):
            objects.get_into(frames)
    else:
        size = {"missing": None, "empty": 0, "small": 1, "large": 200_000}[then]
        assert objects.get_into(frames) == [*[100_000] * before, *[size] * count]
    assert all(frame == good[1] for _, frame in frames[:before])
    assert objects.exists([good[0]]) == [True]


@pytest.mark.parametrize("build", BUILDS)
def test_a_part_of_the_largest_size_takes_hardly_more_memory_than_its_bytes(tmp_path, build):
    size = HEADER_BYTES + PART_BYTES
    with Server(tmp_path / "server", build=build) as server, server.client() as client:
        for number in range(16):
            client.set(f"{number:032x}", bytes(size), ex=600)
            # Of the value alone: what a client's buffers hold meanwhile depends on when it is read.
            assert client.memory_usage(f"{number:032x}") < size * 1.01
