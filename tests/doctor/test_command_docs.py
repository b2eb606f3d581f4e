"""What the pages of docs that show commands show works, and prints what they show.

In a `console` block a line `$ torpor …` is run and its output follows; `[...]` stands for lines
that are left out. In a plain block every command is parsed, and run if it starts nothing. What else
is written in a language that something reads, a test of its page reads.
"""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from agent_runtime.cli import _parser, main

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "docs" / name
    for name in ("profiles.md", "plan.md", "nodes.md", "doctor.md", "engine.md")
]

ALL = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

READ = {
    ("README.md", "python"): (1, "runtime/test_readme.py"),
    ("anthropic.md", "python"): (1, "runtime/test_anthropic_page.py"),
    ("backends.md", "python"): (1, "backends/test_backends_page.py"),
    ("bench.md", "json"): (1, None),  # measured
    ("built-in-tools.md", "python"): (1, "tools/test_built_in_tools_page.py"),
    ("chat.md", "sh"): (1, "backends/test_chat_page.py"),
    ("configuration.md", "toml"): (1, "operations/test_configuration.py"),
    ("engine.md", "python"): (1, "runtime/test_boundaries.py"),
    ("engines.md", "sh"): (1, "runtime/test_engines_page.py"),
    ("frameworks.md", "python"): (3, "runtime/test_frameworks_page.py"),
    ("langgraph.md", "python"): (3, "graph/test_langgraph_page.py"),
    ("mcp-server.md", "json"): (1, "runtime/test_mcp_server_page.py"),
    ("mcp-server.md", "python"): (1, "runtime/test_mcp_server_page.py"),
    ("mcp.md", "python"): (1, "tools/test_mcp_page.py"),
    ("openai-responses.md", "python"): (2, "runtime/test_openai_responses_page.py"),
    ("openai.md", "js"): (1, "runtime/test_openai_page.py"),
    ("openai.md", "python"): (2, "runtime/test_openai_page.py"),
    ("operations.md", "python"): (1, "operations/test_operations_page.py"),
    ("sandbox.md", "console"): (1, "tools/test_sandbox_page.py"),
    ("sandbox.md", "python"): (1, "tools/test_sandbox_page.py"),
    ("scheduling.md", "json"): (1, "scheduling/test_scheduling_page.py"),
    ("store.md", "python"): (6, "state_store/test_store_page.py"),
    ("tools.md", "python"): (4, "tools/test_tools_page.py"),
    ("turns.md", "python"): (1, "runtime/test_turns_page.py"),
    ("workspaces.md", "python"): (1, "backends/test_workspaces_page.py"),
}
"""How many blocks of a language a page has, and the test that reads them."""


def blocks(page, language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [content for kind, content in fenced if kind == language]


def shown_commands(page):
    """(arguments, shown output) of every command in the page's console blocks."""
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ torpor ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield shlex.split(command), output


SHOWN = [(page.name, *shown) for page in PAGES for shown in shown_commands(page)]


def test_every_page_shows_commands():
    assert {name for name, *_ in SHOWN} == {page.name for page in PAGES}


@pytest.mark.parametrize(
    ("arguments", "output"), [shown[1:] for shown in SHOWN], ids=lambda value: str(value)[:60]
)
def test_a_command_prints_what_is_shown(arguments, output, capsys, monkeypatch):
    if arguments[0] == "doctor":  # what it says of this machine is not in the page
        monkeypatch.setattr("agent_runtime.doctor.installation.examine", lambda: iter(()))
    main(arguments)
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    pieces = [piece.strip("\n") for piece in output.split("[...]\n")]
    if len(pieces) == 1:
        assert printed.strip("\n") == pieces[0]
    for piece in pieces:
        assert piece in printed


def test_plain_commands_exist_and_those_that_start_nothing_run(capsys):
    lines = [
        shlex.split(line.partition("#")[0])[1:]
        for page in ALL
        for block in blocks(page, "")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("torpor ")
    ]
    assert len(lines) >= 60
    for arguments in lines:
        _parser().parse_args(arguments)
        if arguments[0] == "profiles":
            assert main(arguments) == 0


def test_every_program_on_a_page_is_read_by_a_test():
    there_are = Counter(
        (page.name, kind)
        for page in ALL
        for kind in re.findall(r"^```(\w+)\n.*?^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        if kind != "text" and (kind != "console" or page not in PAGES)
    )
    assert there_are == {of: count for of, (count, _) in READ.items()}
    for (page, _), (_, test) in READ.items():
        assert test is None or page in (REPOSITORY / "tests" / test).read_text(), page
