"""What docs/scheduling.md says is so."""

import json
import re
import shlex
from pathlib import Path

from agent_runtime.cli import _parser, main
from agent_runtime.errors import Overloaded
from agent_runtime.policies import POLICIES
from agent_runtime.scheduling.scheduler import Where
from agent_runtime.scheduling.trace import Row
from agent_runtime.settings import SchedulingSettings
from agent_runtime.wire.scheduling import EngineSlots
from agent_runtime.wire.turns import Timing

PAGE = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands():
    lines = [line for block in blocks("") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("torpor ")]


def fields_of(heading):
    """Names in the first column of the table under `heading`."""
    table = PAGE.split(heading, 1)[1].split("\n\n", 1)[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return {name for first in rows for name in re.findall(r"`(\w+)`", first)}


def test_every_command_is_one():
    assert len(commands()) == 5
    for command in commands():
        _parser().parse_args(command[1:])


def test_the_simulations_run_as_shown(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "turns.jsonl").write_text(blocks("json")[0])
    for command in commands():
        if command[1] != "simulate":
            continue
        few = [word if word != "10000" else "40" for word in command[1:]]
        assert main(few) == 0
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(records) == (1 if "--policy" in command else len(POLICIES))
        missing = set(records[0]) - fields_of("| field of the result | |\n|---|---|")
        assert missing == {"policy", "sessions", "turns"}
    assert (tmp_path / "lru.svg").exists()


def test_the_trace_is_one():
    (lines,) = blocks("json")
    rows = [Row.model_validate_json(line) for line in lines.splitlines()]
    assert {row.session for row in rows} == {"s17"}
    assert set(Row.model_fields) == {key for line in lines.splitlines() for key in json.loads(line)}


def test_policies_fields_and_limits_are_those_of_the_code():
    assert fields_of("| policy | who leaves first |") == set(POLICIES)
    assert f"`{SchedulingSettings().policy}` (default)" in PAGE
    assert f"status {Overloaded.status}, code `{Overloaded.code}`" in PAGE
    shown = fields_of("counts per engine:\n\n| field | |\n|---|---|")
    assert shown <= set(EngineSlots.model_fields)
    assert ", ".join(f"`{where}`" for where in Where) in PAGE
    assert "queued_s" in Timing.model_fields
