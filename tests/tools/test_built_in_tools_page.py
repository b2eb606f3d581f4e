"""What docs/built-in-tools.md shows works as it is written."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_prints_what_is_shown():
    page = (ROOT / "docs" / "built-in-tools.md").read_text()
    example, shown = re.findall(r"^```(?:python)?\n(.*?)^```", page, re.M | re.S)
    printed = subprocess.run(
        [sys.executable, "-c", example], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert printed == shown
