"""Exchanges of a chat that break off, over an endpoint that answers as a test says."""

import errno
import io
import os
import secrets
import sys

import httpx
import pytest
from rich.console import Console

from agent_runtime.chat import chats, piped
from agent_runtime.chat.exchange import Allow, Exchanges, Options
from agent_runtime.chat.plain import PlainView
from agent_runtime.chat.screen import Screen
from agent_runtime.chat.sitting import Sitting, Wanted
from agent_runtime.chat.terminal import Key, Terminal
from agent_runtime.chat.toolbox import Toolbox
from agent_runtime.chat.view import View
from agent_runtime.sdk import ApiUnreachable, Torpor
from tests.backends.scripted import call, says
from tools.approval import Verdict
from tools.errors import WorkspacesUnusable


@pytest.fixture
async def torpor(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with Torpor("http://scripted", transport=transport) as client:
        yield client


@pytest.fixture
def files(tmp_path):
    return tmp_path / "files"


def sitting_on(toolbox: Toolbox, view: View, allow: Allow | None = None) -> Sitting:
    options = Options(64, None, None, patience=0.0)
    return Sitting(toolbox, view, lambda session: Exchanges(session, toolbox, view, allow, options))


@pytest.fixture
def sit(torpor, files):
    def sit() -> Sitting:
        view = PlainView(io.StringIO(), io.StringIO())
        return sitting_on(Toolbox(torpor, files, code=Verdict.REFUSE), view)

    return sit


async def test_a_fork_whose_answer_got_lost_is_the_one_that_is_gone_on_in(sit, torpor, said):
    name = f"ada-{secrets.token_hex(3)}"
    said.scripted += [says({"content": text}) for text in ("One.", "Elsewhere.", "Two.")]
    sitting = sit()
    await sitting.open(await sitting.find(Wanted(session=name)))
    await sitting.exchanges.say("one")
    parent = sitting.session.id
    asking = sitting.exchanges._asking
    attempt, seen = asking._attempt, []

    async def first_in_the_parent_then_lost(session_id, *asked):
        seen.append(session_id)
        if len(seen) == 1:
            await torpor.turn(parent, "from elsewhere")
        elif len(seen) == 2:
            raise ApiUnreachable("the answer broke off.")
        return await attempt(session_id, *asked)

    asking._attempt = first_in_the_parent_then_lost
    with pytest.raises(ApiUnreachable):
        await sitting.exchanges.say("two")
    before = await torpor.get(seen[1])
    (result,) = await sitting.exchanges.go_on()
    assert result.text == "Two."
    assert result.session_id == seen[1] != parent
    fork = await torpor.get(seen[1])
    assert fork.labels == before.labels
    assert chats.name_of(fork) == f"{name}/2"
    another = await chats.forked(torpor, fork)
    assert chats.name_of(another) == chats.name_of(await torpor.get(another.id)) == f"{name}/3"


async def test_a_message_is_taken_back_if_the_files_of_tools_cannot_be_written(
    sit, torpor, said, files
):
    wanted = Wanted(session=f"ada-{secrets.token_hex(3)}")
    said.scripted += [
        says({"content": "One."}),
        says(call("list_files", "c"), finish="tool_calls"),
    ]
    sitting = sit()
    await piped.answer(sitting, wanted, "one", sitting._view)
    head = (await torpor.get(sitting.session.id)).head
    files.write_text("no folder")
    sitting = sit()
    with pytest.raises(WorkspacesUnusable, match="the folder of workspaces cannot be used"):
        await piped.answer(sitting, wanted, "two", sitting._view)
    assert (await torpor.get(sitting.session.id)).head == head


class Closing(io.StringIO):
    gone = False

    def write(self, text):
        if self.gone:
            raise OSError(errno.EIO, "the terminal is closed")
        return super().write(text)


class Typing:
    """Types one message, on a terminal that is closed right after."""

    def __init__(self, out: Closing) -> None:
        self._out = out

    async def read(self, prompt: str) -> str:
        self._out.gone = True
        return "one"

    def end(self, key: Key) -> bool:
        return False


@pytest.fixture
def keyboard(monkeypatch):
    master, terminal = os.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield
    os.close(master)


@pytest.mark.usefixtures("keyboard")
async def test_a_chat_is_suspended_if_its_terminal_is_closed_in_the_middle(torpor, said, files):
    out = Closing()
    screen = Screen(Console(file=out))
    terminal = Terminal(screen, "")
    terminal._lines = Typing(out)
    sitting = sitting_on(Toolbox(torpor, files), screen, terminal.allow)
    said.scripted.append(says({"content": "One."}))
    assert await terminal.talk(sitting, Wanted(session=f"ada-{secrets.token_hex(3)}")) == 0
