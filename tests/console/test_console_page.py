"""What docs/console.md says is in the console, is."""

import re
import shlex
from pathlib import Path

from agent_runtime.cli import _parser
from agent_runtime.console.routes import PATHS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "console.md").read_text("utf-8")
MODULES = "".join(
    path.read_text() for path in (ROOT / "agent_runtime" / "console" / "static").glob("*.js")
)


def test_the_commands_are_ones_and_the_address_is_the_consoles():
    (block,) = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        command, *arguments = shlex.split(line)
        assert command == "torpor"
        _parser().parse_args(arguments)
    assert "`/console`" in PAGE
    assert "/console" in PATHS


def test_every_button_that_is_told_of_is_there_and_every_one_there_is_told_of():
    rows = re.findall(r"^\| ([A-Z][^|]*) \|", PAGE, re.MULTILINE)
    told = {name.strip() for row in rows for name in row.split(", ")} | set(
        re.findall(r"(?<!\*)\*(?!\*)([^*\n]+)\*(?!\*)", PAGE)
    )
    there = set(re.findall(r'button\("([^"]+)"', MODULES))
    small = {"Add a label", "Cancel", "Close", "Let it go", "Read anew", "Remove",
             "Take it back into the box"}  # fmt: skip
    assert there - told == small
    assert {name for name in told if f'"{name}"' not in MODULES} == {"Forget the key"}
