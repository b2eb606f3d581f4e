"""`torpor bench resume`, `suspend`, `fork`, `lengths` and `decode` measure what they say, on real
processes."""

import json
import re
from pathlib import Path

import pytest

from agent_runtime.bench import lengths
from agent_runtime.bench.scene import Scene
from agent_runtime.cli import main

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "bench-sessions.md").read_text("utf-8")


def is_documented(field):
    return field.endswith("_quartiles") or f"`{field}`" in PAGE or f'"{field}": ' in PAGE


def all_measured(capsys, tmp_path, *arguments):
    assert main(["bench", *arguments, "--data", str(tmp_path / "data")]) == 0
    told = capsys.readouterr()
    machine, *records = [json.loads(line) for line in told.out.splitlines()]
    assert (machine["bench"], machine["measure"]) == (arguments[0], "machine")
    for record in records:
        assert [field for field in record if not is_documented(field)] == []
    losses = [loss for record in records for loss in record.get("loses", ())]
    assert [line for line in told.err.splitlines() if line.startswith("loses: ")] == [
        f"loses: {loss}" for loss in losses
    ]
    return records


def measured(capsys, tmp_path, *arguments):
    (record,) = all_measured(capsys, tmp_path, *arguments)
    return record


def test_a_resume_is_compared_with_a_prefill_and_with_peers_in_the_same_rounds(capsys, tmp_path):
    record = measured(capsys, tmp_path, "resume", "--tokens", "4000", "--rounds", "1")
    assert record["synthetic"] is False
    assert record["identical"] is True
    assert record["reused_tokens"] > 0.95 * record["tokens"] > 3000
    assert record["recomputed_tokens"] < 128
    seconds = [
        "resume_ttft_s",
        "hot_ttft_s",
        "reprefill_ttft_s",
        "alone_hot_ttft_s",
        "llama_ttft_s",
        "llama_restore_s",
    ]
    for name in seconds:
        low, high = record[f"{name}_quartiles"]
        assert 0 < low <= record[name] <= high
    alone = (tmp_path / "data" / "engine-alone.log").read_text()
    assert "'enable_unified_cache_external_linker': False" in alone
    prefills = re.findall(r"#new-token: (\d+), #cached-token: (\d+)", alone)
    of_prompt = [(int(new), int(cached)) for new, cached in prefills if int(new) + int(cached) > 9]
    assert any(cached > 0.95 * record["tokens"] for _, cached in of_prompt)  # asked once more
    assert sum(new for new, _ in of_prompt) > 2 * record["tokens"]  # and each time after a flush
    assert record["restarted_ratio"] == pytest.approx(
        record["reprefill_ttft_s"] / record["restarted_ttft_s"], rel=0.2
    )


def test_one_more_turn_is_put_to_sleep_with_what_is_new(capsys, tmp_path):
    *records, goal = all_measured(
        capsys, tmp_path, "suspend", "--tokens", "600", "6000", "--rounds", "3"
    )
    short, long = records
    assert 5000 < long["tokens"] < 7500
    assert long["bytes_written"] == pytest.approx(short["bytes_written"], rel=0.5)
    assert long["llama_bytes"] > 4 * short["llama_bytes"]
    assert goal["bytes_ratio"] == long["bytes_ratio"]
    assert goal["bytes_ratio"] == pytest.approx(
        long["bytes_written"] / long["llama_bytes"], abs=1e-3
    )


def test_forks_are_compared_by_length_and_counted_in_the_store(capsys, tmp_path):
    options = ("--short", "500", "--long", "8000", "--told", "3000", "--rounds", "4")
    timed, stored, middle, goal = all_measured(capsys, tmp_path, "fork", *options)
    assert (timed["short_tokens"], timed["long_tokens"]) == (500, 8000)
    low, high = timed["time_ratio_quartiles"]
    assert 0 < low <= timed["time_ratio"] <= high
    assert 0.9 < stored["storage_ratio"] < 1.1  # of what the server says of itself
    assert 0 < middle["recomputed_tokens"] <= middle["boundary_interval"]
    assert middle["llama_recomputed_tokens"] == middle["middle"]
    assert goal["met"] in (True, False)


def test_a_synthetic_session_longer_than_the_profile_is_restored(capsys, tmp_path):
    record = measured(
        capsys, tmp_path, "resume", "--tokens", "150000", "--synthetic", "--rounds", "1"
    )
    assert record["synthetic"] is True
    assert record["identical"] is True
    assert record["reused_tokens"] >= 149_952
    assert (record["reprefill_ttft_s"], record["ratio"]) == (None, None)


async def test_lengths_are_woken_gone_on_with_forked_and_put_to_sleep(torpor, stage, store):
    before = {session.id async for session in torpor.sessions()}
    record = await lengths.curves(Scene(stage, torpor, store), [1000, 20_000], rounds=2)
    assert {session.id async for session in torpor.sessions()} == before
    assert [field for field in record if not is_documented(field)] == []
    assert (record["over"], record["points"]) == ("tokens", [1000, 20_000])
    timed = {"resume_ttft_s", "outside_s", "fork_s", "suspend_s"}
    assert record["seconds"].keys() == record["quartiles"].keys() == timed
    assert record["powers"].keys() == timed | {"bytes_written"}
    for name, (short, long) in record["seconds"].items():
        assert short > 0
        assert (long > short) is (record["powers"][name] > 0)
    short, long = record["bytes"]["bytes_written"]
    assert 0 < long == pytest.approx(short, rel=0.5)  # of one turn, however long the session


def test_decoding_is_compared_with_and_without_snapshots_and_mtp(capsys, tmp_path):
    record = measured(capsys, tmp_path, "decode", "--pairs", "1", "--tokens", "32")
    assert record["identical"] is True
    assert record["mtp_identical"] is True
    assert record["mtp_accept_length"] >= 1
    assert record["snapshot_on_off"] > 0.5  # what it is, docs/bench-sessions.md shows
