"""What docs/mcp.md shows works as it is written."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_runs():
    page = (ROOT / "docs" / "mcp.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    printed = subprocess.run(
        [sys.executable, "-c", example], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert printed == "['time_get_current_time', 'time_convert_time']\nTrue\nready\n"
