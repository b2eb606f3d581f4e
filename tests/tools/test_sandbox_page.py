"""What docs/sandbox.md shows works as it is written."""

import re
import subprocess
import sys
from pathlib import Path

from tools.sandbox import Limits
from tools.sandbox.limits import size

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sandbox.md").read_text()


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout


def test_the_example_runs():
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    printed = run("-c", example).splitlines()
    assert printed[0] == "answer"
    assert "cannot access '/home': No such file or directory" in printed[1]
    assert printed[2:] == ["[exit code 2]", "42", " ['answer']"]


def test_the_check_prints_what_is_shown():
    (shown,) = re.findall(r"^```console\n\$ python -m tools.sandbox\n(.*?)^```", PAGE, re.M | re.S)
    printed = run("-m", "tools.sandbox").splitlines()
    held, shown_held = printed.pop(1), shown.splitlines()[1]
    assert shown_held == "memory held by control groups (cgroup v2)"
    assert held.startswith(
        ("memory held by control groups (", "memory held by a watch every 50 ms")
    )
    assert printed == [*shown.splitlines()[:1], *shown.splitlines()[2:]]


def test_the_limits_it_quotes_are_the_defaults():
    assert f"used more than {size(Limits().memory)} of memory" in PAGE
    assert f"the limit is {Limits().processes} processes" in PAGE
