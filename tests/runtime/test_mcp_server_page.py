"""What docs/mcp-server.md shows works as it is written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent_runtime import cli
from agent_runtime.mcp_server.tools import all_tools

PAGE = (Path(__file__).parents[2] / "docs" / "mcp-server.md").read_text("utf-8")
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
(CONFIGURATION,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.M | re.S)


def test_the_example_talks_and_forks(stage):
    example = EXAMPLE.replace("http://127.0.0.1:8700", stage.runtime.url)
    lines = subprocess.run(
        [sys.executable, "-c", example], check=True, capture_output=True, text=True, timeout=120
    ).stdout.splitlines()
    assert lines == ["You are welcome.", "True", "True invalid_id"]


def test_every_tool_is_in_the_table_and_the_destructive_ones_say_so():
    rows = re.findall(r"^\| (`.*?) \|(.*)\|$", PAGE, re.M)
    named = {name: text for names, text in rows for name in re.findall(r"`(\w+)`", names)}
    tools = {tool.name: tool.annotations.destructiveHint for tool in all_tools(None)}
    assert named.keys() == tools.keys()
    assert {name for name, destroys in tools.items() if destroys} == {
        name for name, text in named.items() if "*destructive*" in text
    }


def test_the_commands_are_ones(capsys, monkeypatch):
    monkeypatch.delenv("TORPOR_KEY", raising=False)
    server = json.loads(CONFIGURATION)["mcpServers"]["torpor"]
    assert server["command"] == "torpor"
    options = set(re.findall(r"--[a-z-]+", PAGE.partition("```json")[0])) | set(server["args"])
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["mcp", "--help"])
    helped = capsys.readouterr().out
    assert all(option in helped for option in options if option.startswith("--"))
    assert cli.main(["mcp", "--key-variable", "TORPOR_KEY"]) == 1
    assert "TORPOR_KEY, which is not set" in capsys.readouterr().err
