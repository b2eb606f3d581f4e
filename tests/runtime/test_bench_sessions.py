"""`torpor bench resume` and `torpor bench decode` measure what they say, on real processes."""

import json
from pathlib import Path

import pytest

from agent_runtime.cli import main

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "bench-sessions.md").read_text("utf-8")


def measured(capsys, tmp_path, *arguments):
    assert main(["bench", *arguments, "--data", str(tmp_path / "data")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    assert [field for field in record if f'"{field}": ' not in PAGE] == []  # as shown there
    return record


def test_a_resume_is_compared_with_a_prefill(capsys, tmp_path):
    record = measured(capsys, tmp_path, "resume", "--tokens", "6000")
    assert record["synthetic"] is False
    assert record["identical"] is True
    assert record["reused_tokens"] > 0.95 * record["tokens"] > 5000
    assert record["recomputed_tokens"] < 128
    assert record["ratio"] == pytest.approx(
        record["reprefill_ttft_s"] / record["resume_ttft_s"], rel=0.1
    )


def test_a_synthetic_session_longer_than_the_profile_is_restored(capsys, tmp_path):
    record = measured(capsys, tmp_path, "resume", "--tokens", "150000", "--synthetic")
    assert record["synthetic"] is True
    assert record["identical"] is True
    assert record["reused_tokens"] >= 149_952
    assert (record["reprefill_ttft_s"], record["ratio"]) == (None, None)


def test_decoding_is_compared_with_and_without_snapshots_and_mtp(capsys, tmp_path):
    record = measured(capsys, tmp_path, "decode", "--rounds", "4", "--tokens", "32")
    assert record["identical"] is True
    assert record["mtp_identical"] is True
    assert record["mtp_accept_length"] >= 1
    assert record["snapshot_on_off"] > 0.5  # what it is, docs/bench-sessions.md shows
