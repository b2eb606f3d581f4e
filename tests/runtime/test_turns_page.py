"""What docs/turns.md says is so."""

import re
from pathlib import Path
from typing import get_args

from agent_runtime.errors import (
    Cancelled,
    FilesNotKept,
    HeadMoved,
    KeyReused,
    NoMessages,
    StillRunning,
    UnknownOption,
)
from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.events import EVENTS
from agent_runtime.wire.messages import HistoryPolicy
from agent_runtime.wire.sessions import CreateSession
from agent_runtime.wire.turns import Cancellation, SamplingDefaults, TurnResult, Usage
from engine.launch import checked_model
from engine.profiles import PROFILES

PAGE = (Path(__file__).parents[2] / "docs" / "turns.md").read_text()


def test_the_program_runs(stage, monkeypatch, capsys):
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("TORPOR_URL", stage.runtime.url)
    exec(compile(program, "turns.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "tokens more" in printed
    assert "3 sessions and" in printed


def test_ways_to_deal_with_templates_are_those_that_there_are():
    table = PAGE.split("| `history` | |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [*get_args(HistoryPolicy)]
    assert f"`{CreateSession.model_fields['history'].default}` (default)" in table
    for error in (FilesNotKept, NoMessages, UnknownOption):
        assert f"`{error.code}`" in PAGE
    assert "rewritten_tokens" in Usage.model_fields


def test_every_event_is_in_the_table():
    table = PAGE.split("## Events")[1].split("##")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*EVENTS, "error"]


def test_every_route_is_one():
    model = checked_model(PROFILES["demo"].model)
    app = create_app(RuntimeSettings(redis_url="redis://nowhere", model_dir=model))
    known = {
        f"{method.upper()} {path.replace('/v1/sessions/{session_id}', '…')}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    named = re.findall(r"`((?:POST|GET) […/][^` ?{]*)[^`]*`", PAGE)
    assert len(named) >= 10
    assert set(named) - {"GET /v1/sessions/"} <= known


def test_the_codes_fields_and_numbers_are_those_of_the_code():
    for error in (Cancelled, HeadMoved, KeyReused, StillRunning):
        assert f"`{error.code}`" in PAGE
    for error in (KeyReused, StillRunning):
        assert f"{error.status} `{error.code}`" in PAGE
    assert {"replayed", "reasoning"} <= set(TurnResult.model_fields)
    assert "committed" in Cancellation.model_fields
    settings = RuntimeSettings.model_fields
    assert settings["request_ttl"].default == 86400.0  # a day
    assert settings["cancel_interval"].default == 0.5  # half a second
    fields = re.search(r"created with `sampling`: (.*?) of its turns", PAGE)[1]
    assert set(re.findall(r"`(\w+)`", fields)) == set(SamplingDefaults.model_fields)
