"""`torpor bench fleet` and `torpor bench turn` measure what they say, on real processes."""

import json
import re
import shlex
from pathlib import Path

import pytest

from agent_runtime.bench.fleet import growth
from agent_runtime.cli import _parser, main

PAGE = (Path(__file__).parents[2] / "docs" / "bench-sessions.md").read_text("utf-8")
LEAST_MB = 48  # that memory may grow by and still count as bounded


def measured(capsys, tmp_path, *arguments):
    data = str(tmp_path / "data")
    assert main(["bench", *arguments, "--data", data]) == 0
    *samples, record = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return samples, record


def documented(heading):
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"`(\w+)`", section))


def test_memory_is_told_of_a_run_too_short_to_settle_too():
    mb = 1 << 20
    samples = [(0.0, mb, 2 * mb), (40.0, 3 * mb, 4 * mb), (90.0, 5 * mb, 6 * mb)]
    assert growth(samples, 100.0) == {"runtime_mb": [3, 5], "engine_mb": [4, 6]}
    assert growth(samples[:1], 5.0) == {"runtime_mb": [1, 1], "engine_mb": [2, 2]}


def test_the_commands_on_the_page_are_some():
    shown = [line for line in PAGE.splitlines() if line.startswith("torpor bench ")]
    assert len(shown) == 5
    for line in shown:
        _parser().parse_args(shlex.split(line)[1:])


@pytest.mark.slow
def test_many_agents_on_few_slots_lose_no_turn_and_see_none_twice(capsys, tmp_path):
    """More sessions than the device has room for. By default the command has 200, for minutes."""
    samples, record = measured(capsys, tmp_path, "fleet", "--sessions", "48", "--seconds", "30")
    assert (record["lost"], record["doubled"], record["store_problems"]) == (0, 0, 0)
    assert (record["failed"], record["slots"], record["sessions"]) == (0, 4, 48)
    assert record["turns"] == record["turns_in_store"] >= 96
    assert record["fewest_turns"] >= 2
    assert record["starts"]["new"] == 48
    assert record["suspended"] > 0
    assert record["without_reprefill"] > 0.9
    assert all(sample.get("running", 0) <= 4 for sample in samples)
    for memory in ("runtime_mb", "engine_mb"):
        settled, at_the_end = record[memory]
        assert at_the_end - settled < max(LEAST_MB, settled / 10)
    undocumented = set(record) - documented("Many agents")
    assert undocumented == {"bench", "sessions", "slots", "seconds"}


@pytest.mark.slow
def test_a_turn_is_compared_with_the_engine_and_with_a_longer_sessions(capsys, tmp_path):
    _, record = measured(capsys, tmp_path, "turn", "--rounds", "2", "--long", "20000")
    assert 1000 <= record["tokens"] <= 1200
    assert record["long_tokens"] >= 20_000
    assert record["overhead_ratio"] == pytest.approx(
        record["turn_s"] / record["engine_s"], abs=0.01
    )
    assert record["growth_1m"] == pytest.approx(
        record["outside_1m_s"] / record["outside_1k_s"], rel=0.05
    )
    assert 0.001 < record["cpu_1k_s"] < record["turn_s"]
    undocumented = set(record) - documented("A turn beside the engine")
    assert undocumented == {"bench", "rounds", "long_rounds"}
