"""`torpor bench store` prints what it measured, and says when it loses."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from agent_runtime.bench import store
from agent_runtime.cli import main
from state_store.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def printed() -> list[dict]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(["bench", "store", "--quick"]) == 0
    machine, *records = [json.loads(line) for line in output.getvalue().splitlines()]
    assert machine["measure"] == "machine"
    return records


def test_every_subject_is_measured(printed):
    assert [record["measure"] for record in printed] == [
        *["raw"] * len(store.QUICK.sizes), *["lmcache"] * len(store.QUICK.sizes),
        "connections", "memory", "sealed", "masters", "goal",
    ]  # fmt: skip


def test_ratios_of_every_size_are_printed_and_those_that_lose_are_named(printed):
    *records, goal = printed
    raw = [record for record in records if record["measure"] == "raw"]
    assert [record["value_bytes"] for record in raw] == list(store.QUICK.sizes)
    missed = []
    for record in raw:
        for way in ("get", "put"):
            for other, least in (("raw", 0.8), ("redis_py", 3.0)):
                name = f"{way}_ratio_{other}"
                assert record[name] > 0
                assert (name in record["loses"]) == (record[name] < least)
        missed += [f"{name} at {record['value_bytes']}" for name in record["loses"]]
    for record in (record for record in records if record["measure"] == "lmcache"):
        for name in ("get_ratio_lmcache", "put_ratio_lmcache"):
            low, high = record[f"{name}_quartiles"]
            assert 0 < low <= record[name] <= high
            assert (name in record["loses"]) == (record[name] < 1)
        missed += [f"{name} at {record['value_bytes']}" for name in record["loses"]]
    assert (goal["missed"], goal["met"]) == (missed, not missed)


def test_more_connections_and_masters_are_compared_with_one(printed):
    by_measure = {record["measure"]: record for record in printed}
    for measure, counts in (("connections", ["1", "2", "4"]), ("masters", ["1", "3"])):
        for way in ("get", "put"):
            assert list(by_measure[measure][f"{way}_gb_s"]) == counts
            assert by_measure[measure][f"{way}_speedup"]["1"] == 1
    for way in ("get", "put"):
        ratios = by_measure["connections"][f"{way}_ratio_sockets"]
        assert list(ratios) == ["1", "2", "4"]
        assert min(ratios.values()) > 0
        assert by_measure["connections"][f"{way}_sockets_speedup"]["1"] == 1


@pytest.mark.parametrize("count", [1, 2, 4])
def test_plain_sockets_share_the_keys(tmp_path, count):
    value = memoryview(b"\r\n" * 50_000)
    keys = [b"bench:{%032x}" % number for number in range(9)]
    with (
        EmbeddedServer(tmp_path) as server,
        store.redis.from_url(server.url) as control,
        store.PlainSockets(server.url, value, count) as plain,
    ):
        plain.put(keys)
        assert [control.get(key) == value for key in keys] == [True] * 9
        plain.get(keys)
        control.set(keys[-1], bytes(100_001))  # which the last socket reads
        with pytest.raises(AssertionError, match="does not hold"):
            plain.get(keys)


def test_sealed_objects_are_compared_with_plain_ones(printed):
    (record,) = (one for one in printed if one["measure"] == "sealed")
    for way in ("get", "put"):
        assert record[f"{way}_gb_s"] > 0 < record[f"{way}_plain_gb_s"]
        low, high = record[f"{way}_ratio_plain_quartiles"]
        assert 0 < low <= record[f"{way}_ratio_plain"] <= high


def test_the_plain_socket_moves_what_we_move(tmp_path):
    """What we are compared with is no straw man that does less, nor one that cannot tell."""
    value = memoryview(b"\r\n" * 50_000)
    keys = [b"bench:{%032x}" % number for number in range(300)]
    with EmbeddedServer(tmp_path) as server, store.redis.from_url(server.url) as control:
        with store.PlainSocket(server.url, value) as plain:
            plain.put(keys)
            assert [control.get(key) == value for key in keys] == [True] * 300
            plain.get(keys)
            assert plain._reply == b"$100000\r\n" + value + b"\r\n"
        control.set(keys[7], b"short")
        with (
            store.PlainSocket(server.url, value) as plain,
            pytest.raises(AssertionError, match="does not hold"),
        ):
            plain.get([keys[7], keys[8]])
