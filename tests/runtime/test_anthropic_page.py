"""What docs/anthropic.md shows works as it is written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent_runtime.anthropic_api.request import _NOT_HERE, _NOT_OF_TOOLS, MessagesRequest

PAGE = (Path(__file__).parents[2] / "docs" / "anthropic.md").read_text("utf-8")
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_the_example_calculates_with_a_tool(stage):
    example = EXAMPLE.replace("http://127.0.0.1:8700", stage.runtime.url)
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "calculator {'expression': '318 + 264'}",
        "318 + 264 = 582.",
        "True",
    ]


def test_every_field_of_a_request_is_told_of():
    fields = MessagesRequest.model_fields.keys() - {"model", "stream"}
    assert all(f"`{field}" in PAGE for field in fields - {"metadata", "output_config"})
    assert {"`metadata.", "`output_config."} <= {f"`{f}." for f in fields if f"`{f}." in PAGE}


def test_everything_that_is_refused_with_a_reason_is_told_of():
    refused = PAGE.partition("Refused with")[2].partition("##")[0]
    named = _NOT_HERE.keys() - {"user_profile_id", "workspace_id"} | _NOT_OF_TOOLS.keys()
    assert all(f"`{field}`" in refused for field in named)
