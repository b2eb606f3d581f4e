"""What docs/operations.md says is so."""

import asyncio
import os
import re
import sys
from pathlib import Path

from agent_runtime.cli import _parser
from agent_runtime.errors import Draining
from agent_runtime.feed import following
from agent_runtime.service import server
from agent_runtime.sessions import draining
from agent_runtime.settings import ServiceSettings
from agent_runtime.turns import cancelling
from agent_runtime.wire.session_events import SESSION_EVENTS
from state_store import feeds

from .test_events import SAYS, serving

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")


async def test_the_program_follows_a_session(settings, script):
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    script("Yes.")
    async with serving(settings) as http:
        session_id = (await http.post("/v1/sessions", json={})).json()["id"]
        names = {"TORPOR_URL": str(http.base_url).rstrip("/"), "SESSION": session_id}
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-u", "-c", program, env=os.environ | names, stdout=-1
        )
        read = [await running.stdout.readline()]
        await http.post(f"/v1/sessions/{session_id}/turns", json=SAYS)
        read += [await running.stdout.readline(), await running.stdout.readline()]
        await http.delete(f"/v1/sessions/{session_id}")
        read.append(await running.stdout.readline())
        assert await running.wait() == 0
    names = [line.decode().split()[1] for line in read]
    assert names == ["session", "turn_began", "turn_committed", "deleted"]


def test_the_commands_are_some():
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for kind, block in fenced if not kind for line in block.splitlines()]
    assert len(lines) >= 3
    for line in lines:
        _parser().parse_args(line.partition("torpor ")[2].split())


def test_every_event_is_in_the_table():
    table = PAGE.split("## Following a session")[1].split("## ")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert named == ["session", *SESSION_EVENTS]


def test_the_numbers_are_those_of_the_code():
    assert (following._RING, feeds._ENTRIES, feeds._KEPT) == (128, 128, 600_000)
    assert (following._LOOK, following._KEEP_ALIVE) == (0.5, 15.0)
    draining_ends = cancelling.ENDING + draining._SUSPENDING
    assert draining_ends + server._LAST + cancelling.ENDING == 35
    assert (Draining.status, Draining.code) == (503, "draining")
    assert "drain_timeout" in ServiceSettings.model_fields
