"""What docs/chat.md shows works as it is written."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agent_runtime.chat.commands import COMMANDS
from agent_runtime.chat.toolbox import CODE, Toolbox
from agent_runtime.cli import _parser
from agent_runtime.sdk import Torpor
from agent_runtime.workspaces import SessionWorkspaces
from tests.backends.scripted import says, sent
from tools.workspaces import Workspaces

PAGE = (Path(__file__).parents[2] / "docs" / "chat.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_commands_are_ones():
    (block,) = blocks("")
    for line in block.splitlines():
        command, *arguments = shlex.split(line, comments=True)
        assert command == "torpor"
        _parser().parse_args(arguments)


@pytest.mark.slow
def test_messages_through_a_pipe_are_answered(chat_service, said, tmp_path):
    said.scripted += [says({"content": f"Answer {n}."}) for n in range(3)]
    (block,) = blocks("sh")
    command = f"{sys.executable} -m agent_runtime.cli chat --url {chat_service.url}"
    command += f" --files {tmp_path}"
    done = subprocess.run(
        ["bash", "-e", "-c", block.replace("torpor chat", command)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second, *events = done.stdout.splitlines()
    assert (first, second) == ("Answer 0.", "Answer 1.")
    assert [json.loads(line)["event"] for line in events] == ["session", "text", "result"]
    assert sent(said)[-1] == ("user", "What is 318 + 264?")


async def test_every_command_inside_and_every_tool_is_told(tmp_path):
    async with Torpor("http://127.0.0.1:1") as torpor:
        toolbox = Toolbox(torpor, tmp_path, tmp_path, ["x"])
        tools = {spec.name for spec in toolbox.specs()}
    of_files = {spec.name for spec in SessionWorkspaces(torpor, Workspaces(tmp_path)).specs()}
    untold = {name for name in tools if f"`{name}`" not in PAGE}
    assert untold <= of_files - set(CODE)
    assert [name for name in COMMANDS if not re.search(rf"/{name}\b", PAGE)] == []
