"""What docs/openai.md shows works as it is written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from agent_runtime.openai_api import errors
from agent_runtime.openai_api.chat_models import UNSUPPORTED
from agent_runtime.openai_api.messages import ours
from tests.results import turn_result

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "openai.md").read_text("utf-8")
NODE = ROOT / "tests" / "node"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def rows(title):
    """The first cells of a section's tables, and all that is named in them."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`([\w-]+)`", "".join(cells)))


@pytest.fixture
def printed(stage, nothing_left):
    def run(command, example, **options):
        return subprocess.run(
            [*command, example.replace("http://127.0.0.1:8700", stage.runtime.url)],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        ).stdout.splitlines()

    return run


def test_openais_client_calls_a_tool(printed):
    answer, cached, why = printed([sys.executable, "-c"], blocks("python")[0])
    assert answer == "318 + 264 = 582."
    assert int(cached) > 0
    assert why == "True past the last boundary"


def test_langchain_gets_a_point(printed):
    assert printed([sys.executable, "-c"], blocks("python")[1]) == ["Point"]


def test_the_client_for_node_streams(printed, node_programs):
    command = ["node", "--input-type=module", "-e"]
    assert printed(command, blocks("js")[0], cwd=node_programs) == ['"one two three four".']


def test_every_parameter_of_openais_is_in_one_table():
    read, refused = rows("What a request may have"), rows("What is refused")
    assert refused == UNSUPPORTED.keys()
    assert CompletionCreateParamsBase.__annotations__.keys() - refused <= read | {"model"}
    assert not read & refused


def test_what_an_answer_has_of_ours_is_named():
    section = PAGE.split("## What an answer has\n")[1].split("\n## ")[0]
    assert ours(turn_result()).keys() <= set(re.findall(r"`(\w+)`", section))


def test_the_codes_that_are_openais_are_named():
    named = {code for _, code in errors.AS_OPENAI.values()} | {"model_not_found"}
    assert rows("Errors") == named
