"""`torpor demo`, as `make demo` runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    data = tmp_path_factory.mktemp("demo") / "data"
    command = [sys.executable, "-m", "agent_runtime.cli", "demo", "--data", str(data)]
    return subprocess.run(
        [*command, "--pages", "4"], cwd=REPOSITORY, capture_output=True, text=True, timeout=540
    )


def test_the_last_line_is_json_that_says_how_it_went(done):
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["demo"] == "ok"
    assert line["identical"] is True
    assert line["forks"] == 3
    assert line["prompt_tokens"] > 2000
    assert line["reused_tokens"] + line["recomputed_tokens"] < line["prompt_tokens"]
    assert line["recomputed_tokens"] <= 64
    assert line["mtp_accept_length"] > 1.5
    assert min(line["resume_ttft_s"], line["reprefill_ttft_s"], line["fork_ms"]) > 0


def test_the_model_answers_as_expected_after_the_resume(done):
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["answers_expected"] == 9
    assert line["answers_right"] >= 8


def test_a_table_comes_before_it(done):
    for row in ("reused from the store", "largest difference in log-probability", "fork, median"):
        assert row in done.stdout
    assert "Traceback" not in done.stderr
