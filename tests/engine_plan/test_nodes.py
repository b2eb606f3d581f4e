"""`torpor simulate-nodes`: its formulas against cases computed by hand, its constants, its page."""

import json
import math
from pathlib import Path

import pytest

from agent_runtime.cli import main
from engine.errors import ImpossiblePlan
from engine.plan.nodes import (
    Node,
    PrefillCost,
    break_even,
    constants,
    nodes,
    objects,
    outcome,
    session_bytes,
    table,
)
from engine.plan.sizes import StateSize
from state_store.layout import PART_BYTES

PAGE = (Path(__file__).parents[2] / "docs" / "nodes.md").read_text("utf-8")
NANO = Node("nemotron-3-nano", "bf16", "H100", 1, network=12.5, shards=4)
TOKENS = 65536
# 6 attention layers x K and V x 2 heads x 128 x 2 bytes a token, in pages of 64 tokens.
KV = 1024 * (64 * 6144 + 128 + 32) + 4 * TOKENS
# 23 Mamba layers: SSM 64 x 64 x 128 in float32, convolution 3 columns of 4096 + 2 x 8 x 128 in bf16
STATE = 23 * (64 * 64 * 128 * 4 + 3 * (4096 + 2048) * 2)
READ = KV + STATE + 128 * math.ceil(STATE / PART_BYTES)


def test_a_resume_reads_every_page_and_one_state():
    one = outcome(NANO, TOKENS, constants())
    assert one.read_bytes == READ
    assert one.limit == "shards"  # 4 x 1 GB/s, as one rank's client; 12.5 of the network
    tail = one.prefill * 0.01  # 128 of 65536 tokens, less than their share: attention is quadratic
    assert one.resume == pytest.approx(0.05 + READ / 4e9, abs=tail)
    assert one.resume_archived - one.resume == pytest.approx(READ / 1e9)
    assert one.ratio == pytest.approx(one.prefill / one.resume)


@pytest.mark.parametrize(
    ("network", "shards", "limit", "gb_s"),
    [(2.0, 4, "network", 2.0), (50.0, 3, "shards", 3.0), (50.0, 64, "clients", 4.0)],
)
def test_the_slowest_link_sets_the_time(network, shards, limit, gb_s):
    node = Node("nemotron-3-nano", "bf16", "H100", 1, network=network, shards=shards)
    one = outcome(node, TOKENS, constants().changed({"fixed": 0.0}))
    assert one.limit == limit
    tail = one.prefill * 0.01
    assert one.resume == pytest.approx(READ / (gb_s * 1e9), abs=tail)


def test_host_to_device_sets_the_time_where_clients_are_fast():
    node = Node("nemotron-3-nano", "bf16", "H100", 1, network=50.0, shards=64)
    one = outcome(node, TOKENS, constants().changed({"fixed": 0.0, "client": 40.0}))
    assert one.limit == "device"
    assert one.resume == pytest.approx(READ / 25e9, abs=one.prefill * 0.01)


def test_a_suspend_writes_what_a_turn_adds():
    """1000 tokens are 16 pages, and a turn leaves two states."""
    turn = 16 * (64 * 6144 + 128 + 32) + 4 * 1000 + 2 * (READ - KV)
    one = outcome(NANO, TOKENS, constants())
    assert one.suspend == pytest.approx(0.05 + turn / (4 * 0.9e9), rel=1e-6)
    assert outcome(NANO, 4 * TOKENS, constants()).suspend == one.suspend


def test_prefill_is_counted_in_operations():
    """About 3.2 G active parameters, and 6 layers of 32 heads of 128 that look back."""
    one = outcome(NANO, TOKENS, constants())
    reached = 989e12 * 0.3
    attention = 2 * 6 * 32 * 128 * TOKENS**2 / reached
    assert (one.prefill - attention) * reached / TOKENS / 2 == pytest.approx(3.2e9, rel=0.1)
    longer = outcome(NANO, 2 * TOKENS, constants())
    assert longer.prefill - 2 * one.prefill == pytest.approx(2 * attention, rel=1e-6)


def test_a_session_costs_its_memory_in_every_replica_or_its_bytes_in_an_archive():
    known = constants()
    one = outcome(NANO, TOKENS, known)
    assert READ < one.memory_bytes < 1.4 * READ + STATE  # two states, and Redis rounds values up
    assert one.ram_day == pytest.approx(one.memory_bytes / 2**30 * 2 * 0.0067 * 24)
    alone = outcome(NANO, TOKENS, known.changed({"replicas": 0}))
    assert alone.ram_day == pytest.approx(one.ram_day / 2)
    assert one.archive_day == pytest.approx((READ + STATE) / 1e9 * 0.023 * 12 / 365, rel=1e-3)
    parts = math.ceil(STATE / PART_BYTES)
    assert one.archive_move == pytest.approx((1024 + parts) * 5e-6)
    assert one.prefill_cost == pytest.approx(one.prefill / 3600 * 4.92)
    assert one.ram_days * one.ram_day == pytest.approx(one.prefill_cost)


def test_objects_are_pages_and_parts_of_states_of_every_rank():
    size = StateSize(ssm=PART_BYTES, conv=1, kv_per_token=100, draft_kv_per_token=0)
    assert objects(size, 3, 65, 64) == 3 * (2 + 2)


@pytest.mark.parametrize(
    ("cost", "fixed", "per_token", "tokens"),
    [
        (PrefillCost(2e-3, 0.0), 1.0, 1e-3, 1000),  # 1 + 1e-3 n = 2e-3 n
        (PrefillCost(2e-3, 1e-6), 2.0, 1e-3, 1000),  # 2 + 1e-3 n = 2e-3 n + 1e-6 n^2
        (PrefillCost(1e-3, 1e-6), 3.0, 3e-3, 3000),  # loading is slower at first, attention wins
        (PrefillCost(1e-3, 0.0), 1.0, 1e-3, None),
    ],
)
def test_a_resume_pays_where_both_take_as_long(cost, fixed, per_token, tokens):
    found = break_even(cost, fixed=fixed, per_token=per_token)
    assert found == (tokens if tokens is None else pytest.approx(tokens, abs=1))


def test_break_even_is_where_the_two_times_meet():
    known = constants()
    tokens = outcome(NANO, TOKENS, known).break_even
    at = outcome(NANO, tokens, known)
    # What break_even leaves out: the tail, headers, the log and the last page's unused tokens.
    tail = at.prefill * 128 / tokens
    assert at.resume - tail == pytest.approx(at.prefill, rel=0.05)


def test_every_rank_reads_its_copy_of_a_head():
    """Ultra has 2 KV heads: 8 ranks hold each 4 times."""
    node = next(node for node in nodes() if (node.model[-5:], node.gpus) == ("ultra", 8))
    made = outcome(node, TOKENS, constants())
    kv = made.read_bytes - outcome(node, TOKENS // 2, constants()).read_bytes
    once = TOKENS // 2 * 2 * (12 + 1) * 2 * 128  # fp8 K and V of 2 heads, the draft's layer too
    assert kv == pytest.approx(4 * once, rel=0.01)


def test_what_does_not_fit_or_is_not_known_is_refused():
    with pytest.raises(ImpossiblePlan, match="do not fit"):
        outcome(Node("nemotron-3-ultra", "bf16", "H100", 8, 50, 16), TOKENS, constants())
    with pytest.raises(ImpossiblePlan, match="peak of MI300X"):
        outcome(Node("nemotron-3-nano", "bf16", "MI300X", 1, 50, 16), TOKENS, constants())
    with pytest.raises(ImpossiblePlan, match="no constant speed; there are"):
        constants().changed({"speed": 1.0})
    with pytest.raises(ImpossiblePlan, match="shard_read is 0"):
        constants().changed({"shard_read": 0.0})


def test_a_session_of_the_demo_model_is_sized_as_the_store_has_it():
    assert session_bytes("demo", "CPU", 128) > 128 * 3 * 2 * 2 * 32 * 4


def test_the_page_has_every_constant_with_its_source():
    for name, entry in table()["constants"].items():
        row = f"| `{name}` | {entry['value']:g} {entry['unit']} | {entry['source']} |"
        assert row in PAGE
    for name, gpu in table()["gpu"].items():
        peaks = " | ".join(f"{gpu[key]:g}" for key in ("bf16", "fp8", "nvfp4", "hour"))
        assert f"| {name} | {peaks} |" in PAGE


# ---- the command ---------------------------------------------------------------------


def test_every_node_is_told_as_json(capsys):
    assert main(["simulate-nodes", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(records) == 4 * len(nodes())
    assert {record["node"]["model"] for record in records} == {
        "nemotron-3-nano", "nemotron-3-super", "nemotron-3-ultra",
    }  # fmt: skip
    assert all(record["resume"] < record["prefill"] for record in records)
    assert {record["context"] for record in records} == {2**14, 2**16, 2**18, 2**20}


def test_a_node_of_ones_own_with_measured_constants(tmp_path, capsys):
    (tmp_path / "store.jsonl").write_text(
        '{"measure": "raw", "value_bytes": 65536, "get_gb_s": 9, "put_gb_s": 9}\n'
        '{"measure": "raw", "value_bytes": 4194304, "get_gb_s": 3.5, "put_gb_s": 2.5}\n'
    )
    own = ["simulate-nodes", "--model", "nemotron-3-nano", "--gpus", "2xH200", "--shards", "2"]
    measured = [*own, "--json", "--context", "64K", "--measured", str(tmp_path), "--set", "fixed=0"]
    assert main(measured) == 1
    assert "no records of both store and resume" in capsys.readouterr().err
    (tmp_path / "resume.jsonl").write_text(
        '{"tokens": 4000, "prefetch_s": 2.0}\n{"tokens": 1000, "prefetch_s": 1.0}\n'
    )
    assert main(measured) == 0
    (record,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert record["limit"] == "shards"
    assert record["resume"] == pytest.approx(record["read_bytes"] / 7e9, rel=0.1)


def test_curves_are_drawn_and_what_does_not_fit_is_told(tmp_path, capsys):
    options = ["--model", "nemotron-3-nano", "--context", "16K", "2M"]
    assert main(["simulate-nodes", *options, "--plot", str(tmp_path / "nodes.svg")]) == 0
    assert "nemotron-3-nano goes up to 1048576 tokens" in capsys.readouterr().out
    assert (tmp_path / "nodes.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpus", "8xH100"], "--gpus needs --model"),
        (["--model", "gpt"], "no node has gpt; there are nemotron-3-nano"),
        (["--shards", "0"], "--network and --shards must be positive"),
        (["--network", "nan"], "--network and --shards must be positive and finite"),
        (["--set", "speed=3"], "no constant speed"),
        (["--set", "fixed=nan"], "fixed is nan; it must be positive and finite"),
        (["--set", "efficiency=1.2"], "efficiency is 1.2; it is a part of a GPU's peak, 1 at"),
        (["--set", "client=inf"], "client is inf; it must be positive and finite"),
    ],
)
def test_what_makes_no_sense_is_refused(options, told, capsys):
    assert main(["simulate-nodes", *options]) == 1
    assert told in capsys.readouterr().err


def test_a_node_that_nothing_fits_on_is_no_success(capsys):
    options = ["--model", "nemotron-3-ultra", "--gpus", "1xH100"]
    assert main(["simulate-nodes", *options]) == 1
    assert "GiB" in capsys.readouterr().out
