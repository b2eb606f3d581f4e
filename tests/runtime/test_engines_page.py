"""What docs/engines.md says is so."""

import re
import shlex
from pathlib import Path

from sglang_router.launch_router import parse_router_args

from agent_runtime.cli import _parser
from agent_runtime.commands.engine import DRAIN_TIMEOUT
from agent_runtime.wire.turns import TurnResult
from engine.linker.config import HEARTBEAT_TTL
from engine.pool import HANGS, PUT_ASIDE
from engine.routing import ROUTING_KEY

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "engines.md").read_text()


def lines(language):
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_every_command_is_one():
    commands = lines("")
    assert {command[0] for command in commands} == {"torpor"}
    assert len(commands) == 7
    for command in commands:
        _parser().parse_args(command[1:])


def test_the_router_takes_what_is_shown():
    (command,) = lines("sh")
    assert command[:3] == ["python", "-m", "sglang_router.launch_router"]
    arguments = parse_router_args(command[3:])
    assert arguments.policy == "manual"
    assert len(arguments.worker_urls) == 2


def test_a_result_has_the_fields_in_the_table():
    fields = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert len(fields) == 3
    assert set(fields) <= set(TurnResult.model_fields)


def test_the_numbers_are_those_of_the_code():
    assert f"it expires after {HEARTBEAT_TTL:g} s" in PAGE
    assert f"has expired, within {HEARTBEAT_TTL:g} s" in PAGE
    assert f"put aside for {PUT_ASIDE:g} s" in PAGE
    assert f"(`--timeout`, {DRAIN_TIMEOUT:g} s)" in PAGE
    assert f"`{ROUTING_KEY}`" in PAGE
    failures = (DOCS / "failures.md").read_text()
    assert f"within {HEARTBEAT_TTL + 5:g} s" in failures
    assert f"{HANGS:g} s after that, within {HEARTBEAT_TTL + HANGS + 5:g} s" in failures
