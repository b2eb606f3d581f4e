"""What docs/backends.md shows works as it is written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agent_runtime import errors
from agent_runtime.cli import _parser, main
from agent_runtime.commands import runtime_options
from agent_runtime.configuration import configured
from agent_runtime.http.status import _STATUS, _snake
from engine import errors as engine

PAGE = (Path(__file__).parents[2] / "docs" / "backends.md").read_text("utf-8")


def blocks(language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [content for kind, content in fenced if kind == language]


def test_the_commands_name_a_backend():
    (block,) = blocks("")
    found = [
        configured(runtime_options.values_of(_parser().parse_args(shlex.split(line)[1:]))).backend
        for line in block.splitlines()
    ]
    assert [settings.key_variable for settings in found] == [None, "NVIDIA_API_KEY"]


def test_the_example_prints_what_is_shown(runtime):
    ((example,), (shown,)) = blocks("python"), blocks("text")
    done = subprocess.run(
        [sys.executable, "-c", example.replace("http://127.0.0.1:8700", runtime.url)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown


def test_every_code_and_status_is_the_one_that_is_told():
    rows = re.findall(r"\| `([a-z_]+)` \| (\d+) \|", PAGE)
    kinds = {_snake(kind.__name__): status for kind, status in _STATUS.items()}
    assert len(rows) == 5
    assert all(kinds[code] == int(status) for code, status in rows)
    for kind in (errors.NeedsState, errors.NothingReused, errors.NoBackend, errors.NoModel):
        assert f"`{kind.code}`" in PAGE
    assert engine.BackendBusy in _STATUS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "needs model_dir, a [backend], or both"),
        (["--backend", "http://x/v1"], "backend.model is not set"),
        (["--backend", "x", "--backend-model", "m"], "begins with http"),
        (["--backend", "http://x", "--backend-model", "m", "--backend-timeout", "0"], "than 0"),
    ],
)
def test_options_that_make_no_runtime_are_refused(options, words, capsys):
    assert main(["serve", "--redis", "unix:///x", *options]) == 1
    assert words in capsys.readouterr().err
