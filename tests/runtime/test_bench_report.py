"""`torpor bench growth` and the page that `torpor bench report` makes of records."""

import json
import sys

import pytest

from agent_runtime.bench import report
from agent_runtime.bench.goals import GOALS, verdicts
from agent_runtime.cli import _parser, main

GROWTH = ["--tokens", "100", "10000", "--sessions", "3", "300", "--rounds", "3"]


def run(folder, *benches):
    return main(["bench", "report", str(folder), "--run", *benches])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with the records of a short run of one bench, and the page of it."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "RUNS", {"growth": GROWTH})
        assert run(folder) == 0
    return folder


def records_of(folder, bench):
    return [json.loads(line) for line in (folder / f"{bench}.jsonl").read_text().splitlines()]


def write(folder, bench, *records):
    (folder / f"{bench}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def page_of(folder):
    assert main(["bench", "report", str(folder)]) == 0
    return (folder / "README.md").read_text()


def test_every_operation_is_compared_with_a_bare_one_at_every_size(measured):
    machine, sessions, tokens, goal, end = records_of(measured, "growth")
    assert (machine["measure"], end["measure"], end["failed"]) == ("machine", "end", None)
    assert (tokens["points"], sessions["points"]) == ([100, 10000], [3, 300])
    assert tokens["ratios"].keys() == {"read", "commit", "fork_and_delete"}
    assert sessions["ratios"].keys() == tokens["ratios"].keys() | {
        "commit_in_quota", "create", "list_10", "schedule", "http_read", "http_list_10",
    }  # fmt: skip
    assert 500 < sessions["bytes_per_session"] < 20_000
    for record in (tokens, sessions):
        for name, (small, large) in record["ratios"].items():
            assert small > 0
            assert (large - small) * record["powers"][name] >= 0  # a small power is rounded to 0
            for low, high in record["quartiles_ms"][name]:
                assert 0 < low <= high
    steep = [n for one in (sessions, tokens) for n, p in one["powers"].items() if p > 0.1]
    assert [loss.split()[0] for loss in goal["loses"]] == steep


def test_a_bench_says_first_what_it_runs_on(measured):
    machine = records_of(measured, "growth")[0]
    assert machine["bench"] == "growth"
    assert (machine["torch"], machine["sglang"]) != (None, None)
    assert machine["cores"] > 0
    assert machine["load"] >= 0
    assert machine["commit"]


def test_the_page_has_the_machine_every_record_and_every_loss(measured):
    write(measured, "fork", {"bench": "fork", "time_ratio": 2.5, "loses": ["continue_s: 2.5"]})
    page = page_of(measured)
    assert "| fork | time to fork, long over short session | ≤ 1.2 | 2.5 | **LOST** |" in page
    where_we_lose = page.split("## Where we lose", 1)[1].split("\n## ", 1)[0]
    assert "- fork: time to fork, long over short session is 2.5; wanted: ≤ 1.2" in where_we_lose
    assert "- fork: continue_s: 2.5" in where_we_lose
    assert "| time_ratio | 2.5 |" in page
    assert f"| {records_of(measured, 'growth')[0]['processor']} |" in page
    for picture in ("tokens", "sessions", "sessions-bytes"):
        assert f"](growth-{picture}.svg)" in page
        assert (measured / f"growth-{picture}.svg").stat().st_size > 1000


def test_a_bench_that_fails_is_told_on_the_page_and_the_others_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "RUNS", {"lengths": ["--rounds", "none"], "store": ["--quick"]})
    assert run(tmp_path) == 1
    assert "torpor: lengths failed" in capsys.readouterr().err
    page = (tmp_path / "README.md").read_text()
    assert "**`lengths` failed**" in page
    assert "exit status 2" in page
    assert "invalid int value: 'none'" in page
    assert "## store" in page
    assert [one["measure"] for one in records_of(tmp_path, "store")][-2:] == ["goal", "end"]


def test_one_bench_is_run_again_alone(measured, tmp_path, monkeypatch):
    before = records_of(measured, "growth")
    write(tmp_path, "growth", *before)
    monkeypatch.setattr(report, "RUNS", {"growth": GROWTH, "streams": ["--streams", "many"]})
    assert run(tmp_path, "streams") == 1
    assert records_of(tmp_path, "growth") == before
    (end,) = records_of(tmp_path, "streams")
    assert "invalid int value: 'many'" in end["failed"]


def test_a_bench_that_hangs_is_stopped_and_what_it_printed_is_kept(tmp_path, monkeypatch):
    class Hanging:
        executable = tmp_path / "python"

    Hanging.executable.write_text(
        f"#!{sys.executable}\nimport time\n"
        'print(\'{"bench": "growth", "x": 1}\', flush=True)\ntime.sleep(600)\n'
    )
    Hanging.executable.chmod(0o755)
    Hanging.stderr = sys.stderr
    monkeypatch.setattr(report, "sys", Hanging)
    monkeypatch.setattr(report, "_LIMIT", 2)
    monkeypatch.setattr(report, "_PATIENCE", 2)  # where SIGINT is ignored, it inherits that
    assert report.run(["growth"], tmp_path) == ["growth"]
    printed, end = records_of(tmp_path, "growth")
    assert printed["x"] == 1
    assert end["failed"].startswith("stopped after 2 s")


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.bench}: {goal.text}")
def test_no_goal_is_met_by_a_bench_that_did_not_run(goal):
    assert goal.verdict({}).met is None
    assert goal.bench in report.RUNS


def test_goals_are_judged_by_the_worst_that_was_measured():
    met = {verdict.goal.text: verdict for verdict in verdicts(MEASURED)}
    assert [(met[text].measured, met[text].met) for text in JUDGED] == list(JUDGED.values())


def resumed(tokens, ratio, **others):
    return {"tokens": tokens, "ratio": ratio, "restarted_ratio": ratio, "identical": True, **others}


MEASURED = {
    "resume": [
        resumed(32000, 130.0, llama_ratio=0.9),
        resumed(15171, 60.0, llama_ratio=1.5),
        resumed(1000, 3.0, llama_ratio=4.0),
        resumed(4000, 30.0, llama_ratio=3.0, identical=False),
    ],
    "store": [
        {"measure": "raw", "get_ratio_raw": 0.9, "put_ratio_raw": 0.7},
        {"measure": "raw", "get_ratio_raw": 0.95, "put_ratio_raw": 0.95},
        {"measure": "connections",
         "get_speedup": {"1": 1.0, "4": 1.4}, "get_ratio_sockets": {"1": 0.7, "4": 0.85},
         "put_speedup": {"1": 1.0, "4": 0.9}, "put_ratio_sockets": {"1": 1.0, "4": 1.1}},
    ],
    "fleet": [{"turns": 3}, {"lost": 0, "doubled": 0, "failed": 0, "store_problems": 0}],
    "savers": [{"saver": "torpor", "bytes_exponent": 1.0}, {"saver": "x", "bytes_exponent": 2.0},
               {"measure": "goal", "loses": ["put_ms_last to memory"]}],
    "lengths": [{"powers": {"fork_s": 0.02, "suspend_s": -0.1, "resume_ttft_s": 0.6}}],
    "fork": [{"recomputed_tokens": 1024, "boundary_interval": 1024}],
}  # fmt: skip
JUDGED = {
    "re-prefill over resumed time to first token, at 16K tokens": (60.0, True),
    "re-prefill over resumed grows with each longer session: smallest step": (2.0, True),
    "resumed time to first token over llama.cpp's restore, at 16K tokens": (1.5, False),
    "the same, longest session": (0.9, True),
    "throughput over a raw socket's, worst size and way": (0.7, False),
    "throughput of 4 connections over that of 4 plain sockets, worse way": (0.85, True),
    "throughput of 4 connections over one, worse way": (0.9, False),
    "turns lost, doubled or failed, and problems found in the store": (0, True),
    "measures in which another saver is ahead": (1, False),
    "power of turns that stored bytes grow with: ours, worse channel": (1.0, True),
    "power of tokens that a resume grows with": (0.6, True),
    "tokens recomputed from the middle, in boundary intervals": (1.0, True),
}


def test_answers_that_differ_lose_their_goal():
    differ = [v for v in verdicts(MEASURED) if v.goal.bench == "resume" and v.goal.limit == 0]
    assert [(verdict.measured, verdict.met) for verdict in differ] == [(1, False)]


def test_a_bench_that_counts_what_failed_has_not_failed(tmp_path):
    write(tmp_path, "fleet", *MEASURED["fleet"])
    assert "`fleet` failed" not in page_of(tmp_path)


def test_the_formula_for_nodes_is_compared_with_what_was_measured_here(tmp_path):
    write(tmp_path, "store", {"measure": "raw", "value_bytes": 4 << 20, "get_gb_s": 2.0,
                              "put_gb_s": 1.5, "loses": []})  # fmt: skip
    write(tmp_path, "resume", {"tokens": 6400, "resume_ttft_s": 0.5, "hot_ttft_s": 0.2,
                               "prefetch_s": 0.1})  # fmt: skip
    page = page_of(tmp_path)
    # 100 pages of 64 tokens x 3 attention layers x K and V x 2 heads x 32 x 4 bytes, with a header
    # of 128 bytes and a hash of 32 each; 4 bytes of log per token; a state of 4 layers.
    kv = 100 * (64 * 3 * 2 * 2 * 32 * 4 + 128 + 32) + 6400 * 4
    state = 4 * (8 * 32 * 32 + (8 * 32 + 2 * 2 * 32) * 3) * 4 + 128
    predicted = 0.2 + 0.1 + (kv + state) / 2e9
    assert f"| 6400 | {kv + state} | {predicted:.3f} | 0.500 | {0.5 / predicted:.2f} |" in page


def test_every_run_of_the_reference_is_a_command():
    for name, options in report.RUNS.items():
        arguments = _parser().parse_args(["bench", name, *options])
        assert arguments.bench_command == name


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
