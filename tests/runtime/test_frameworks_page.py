"""What docs/frameworks.md shows works as it is written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent_runtime.wire.constraints import Constraints
from agent_runtime.wire.turns import TurnRequest

PAGE = (Path(__file__).parents[2] / "docs" / "frameworks.md").read_text("utf-8")
LANGCHAIN, AGENTS, WITHOUT_AWAIT = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def printed(stage):
    def run(example):
        return subprocess.run(
            [sys.executable, "-c", example.replace("http://127.0.0.1:8700", stage.runtime.url)],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout.splitlines()

    return run


def test_the_agent_of_langchain_calculates(printed):
    text, usage, reason = printed(LANGCHAIN)
    assert text == "318 + 264 = 582."
    assert re.fullmatch(r"\{'cache_read': [1-9]\d*\}", usage)
    assert reason == "past the last boundary"


def test_the_run_of_the_agents_sdk_calculates(printed):
    assert printed(AGENTS) == ["318 + 264 = 582.", "4"]


def test_code_without_await_talks(printed):
    assert printed(WITHOUT_AWAIT) == ["You are welcome.", "welcome"]


def test_every_field_that_holds_an_answer_is_in_the_table():
    rows = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.M))))
    assert rows == Constraints.model_fields.keys() | {"stop"}
    assert rows <= TurnRequest.model_fields.keys()
