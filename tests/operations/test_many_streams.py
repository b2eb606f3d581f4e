"""`torpor bench streams`: five hundred open streams, on a real process."""

import json

import pytest

from agent_runtime.cli import main


@pytest.mark.slow
def test_five_hundred_streams_are_told_everything_in_bounded_memory(capsys, tmp_path):
    """For some seconds. By default the command runs for minutes."""
    assert main(["bench", "streams", "--seconds", "12", "--data", str(tmp_path / "data")]) == 0
    _, record = map(json.loads, capsys.readouterr().out.splitlines())
    assert (record["streams"], record["lost"], record["out_of_order"]) == (500, 0, 0)
    assert record["told"] + record["told_missed"] == record["events"] * 10
    assert record["growth_mb"] < 16
