"""What the pages of docs that show commands show works, and prints what they show.

In a `console` block a line `$ torpor …` is run and its output follows; `[...]` stands for lines
that are left out. In a plain block every command is parsed, and run if it starts nothing.
"""

import re
import shlex
from pathlib import Path

import pytest

from agent_runtime.cli import _parser, main

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "docs" / name
    for name in ("profiles.md", "plan.md", "nodes.md", "doctor.md", "engine.md")
]

# A bench prints what it measures; what a store prints depends on what is in it.
OTHERS = [REPOSITORY / "docs" / name for name in ("bench.md", "export-format.md")]


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
        for page in [*PAGES, *OTHERS]
        for block in blocks(page, "")
        for line in block.splitlines()
        if line.strip()
    ]
    assert len(lines) >= 6
    for arguments in lines:
        _parser().parse_args(arguments)
        if arguments[0] == "profiles":
            assert main(arguments) == 0
