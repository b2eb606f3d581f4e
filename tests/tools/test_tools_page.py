"""What docs/tools.md shows prints what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tools.md"
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```\n\nprints\n\n```\n(.*?)^```", PAGE.read_text(), re.M | re.S
)


def test_every_example_says_what_it_prints():
    assert len(EXAMPLES) == PAGE.read_text().count("```python") == 4


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_prints_what_the_page_says(number):
    source, output = EXAMPLES[number]
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=PAGE.parents[1], check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    assert printed == output
