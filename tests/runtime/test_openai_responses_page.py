"""What docs/openai-responses.md shows works as it is written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent_runtime.openai_api.responses.requests import UNSUPPORTED, CreateResponse

PAGE = (Path(__file__).parents[2] / "docs" / "openai-responses.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```.*?^```text\n(.*?)^```", PAGE, re.M | re.S)

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize(("example", "shown"), EXAMPLES, ids=["branches", "agent"])
def test_an_example_prints_what_the_page_says(stage, example, shown):
    done = subprocess.run(
        [sys.executable, "-c", example.replace("http://127.0.0.1:8700", stage.runtime.url)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == shown


def test_there_is_an_example_of_each_kind():
    assert len(EXAMPLES) == 2


def test_every_field_that_is_refused_is_on_the_page():
    refused = PAGE[PAGE.index("## What is refused") :]
    names = {name.partition(".")[0] for name in re.findall(r"`([a-z_.]+)`", refused)}
    assert UNSUPPORTED.keys() <= names
    assert UNSUPPORTED.keys() <= CreateResponse.model_fields.keys()
