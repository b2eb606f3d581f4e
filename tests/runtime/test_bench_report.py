"""`torpor bench growth` and the page that `torpor bench report` makes of records."""

import json

import pytest

from agent_runtime.cli import main


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with the records of a short run of one bench, and the page of it."""
    folder = tmp_path_factory.mktemp("report")
    options = ["--tokens", "100", "10000", "--sessions", "3", "30", "--rounds", "3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent_runtime.bench.report.RUNS", {"growth": [["growth", *options]]})
        assert main(["bench", "report", str(folder), "--run"]) == 0
    return folder


def test_every_operation_is_compared_with_a_bare_one_at_every_size(measured):
    records = [json.loads(line) for line in (measured / "growth.jsonl").read_text().splitlines()]
    tokens, sessions, goal = records
    assert (tokens["points"], sessions["points"]) == ([100, 10000], [3, 30])
    assert tokens["ratios"].keys() == {"read", "commit", "fork_and_delete"}
    assert sessions["ratios"].keys() == tokens["ratios"].keys() | {"create", "list_10"}
    for record in (tokens, sessions):
        for name, (small, large) in record["ratios"].items():
            assert small > 0
            assert (large > small) is (record["powers"][name] > 0) or large == small
    steep = [n for one in (tokens, sessions) for n, p in one["powers"].items() if p > 0.1]
    assert [loss.split()[0] for loss in goal["loses"]] == steep


def test_the_page_has_the_machine_every_record_and_every_loss(measured):
    (measured / "fork.jsonl").write_text(
        '{"bench": "fork", "time_ratio": 2.5, "loses": ["time_ratio: 2.5"]}\n'
    )
    assert main(["bench", "report", str(measured)]) == 0
    page = (measured / "README.md").read_text()
    assert "- fork: time_ratio: 2.5\n" in page
    assert "| time_ratio | 2.5 |" in page
    machine = json.loads((measured / "machine.json").read_text())
    assert f"| processor | {machine['processor']} |" in page
    for over in ("tokens", "sessions"):
        assert f"](growth-{over}.svg)" in page
        assert (measured / f"growth-{over}.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--run", "speed"], "no bench speed; there are store"), ([], "has no records")],
)
def test_what_cannot_be_reported_is_said(tmp_path, capsys, arguments, told):
    assert main(["bench", "report", str(tmp_path), *arguments]) == 1
    assert told in capsys.readouterr().err


def test_records_that_are_none_are_named(tmp_path, capsys):
    (tmp_path / "store.jsonl").write_text("fast\n")
    assert main(["bench", "report", str(tmp_path)]) == 1
    assert "store.jsonl holds something else than records" in capsys.readouterr().err
