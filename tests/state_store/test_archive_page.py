"""What docs/store.md shows of durability and the archive works as it is written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

from agent_runtime.cli import _parser
from state_store.archive.residency import Residency

PAGE = (Path(__file__).parents[2] / "docs" / "store.md").read_text("utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}


def example(section):
    (found,) = re.findall(r"^```python\n(.*?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL)
    return found


def run(code, server, tmp_path):
    places = {"TORPOR_STORE": server.url, "TORPOR_ARCHIVE": f"file://{tmp_path}/archive"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | places,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_durability_example_confirms(own_server, tmp_path):
    assert run(example("Durability"), own_server, tmp_path) == "fsync\n"


def test_the_archive_example_sweeps(own_server, tmp_path):
    printed = run(example("Archive"), own_server, tmp_path)
    assert printed == "0 sessions, 0 bytes moved\n"


def test_every_command_is_one():
    (block,) = re.findall(r"^```\n(.*?)^```", SECTIONS["Archive"], re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line.partition("#")[0]) for line in block.splitlines()]
    assert len(commands) == 8
    for command in commands:
        assert _parser().parse_args(command[1:]).archive


def test_every_residency_is_explained():
    for residency in get_args(Residency):
        assert f"`{residency}`" in SECTIONS["Archive"]
