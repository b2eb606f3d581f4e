"""A turn generates what the engine's context has room for, if it is told to fit."""

from array import array
from types import SimpleNamespace

import pytest

from agent_runtime.errors import ContextFull
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.histories import EMPTY, History
from agent_runtime.turns.outage import Standing
from agent_runtime.turns.prompting import Prompting
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnRequest
from engine.launch import checked_model
from engine.profiles import PROFILES

CHAT = ChatFormat(checked_model(PROFILES["demo"].model))
SESSION = SimpleNamespace(id="ses-1", body=SimpleNamespace(meta={"system": None, "tools": []}))
PROMPT = CHAT.opening([Message(role="user", content="Hi.")], system=None, tools=[])


async def asked(room, *, history=EMPTY, **options):
    """The request, on an engine with room for so many tokens behind the prompt."""
    request = TurnRequest(messages=[Message(role="user", content="Hi.")], **options)
    prompting = Prompting(store=None)  # where only messages are looked up, which are not kept here
    whole = await prompting.ask(CHAT, Standing(SESSION, "", engine(None), history), request)
    limit = len(history.tokens) + len(whole.delta) + room
    return (
        await prompting.ask(CHAT, Standing(SESSION, "", engine(limit), history), request)
    ).request


def engine(limit):
    return SimpleNamespace(record=SimpleNamespace(context_length=limit))


@pytest.mark.parametrize("history", [EMPTY, History(array("I", [*PROMPT, CHAT.eos_id]), [], 0)])
async def test_a_turn_that_fits_generates_as_much_as_there_is_room_for(history):
    assert (await asked(40, history=history, max_tokens=100, fit=True)).max_tokens == 40
    assert (await asked(400, history=history, max_tokens=100, fit=True)).max_tokens == 100
    assert (await asked(1, history=history, max_tokens=100, fit=True)).max_tokens == 1


@pytest.mark.parametrize(("room", "options"), [(0, {"fit": True}), (-3, {"fit": True}), (99, {})])
async def test_without_room_it_is_refused(room, options):
    with pytest.raises(ContextFull, match="exceed the engine's context"):
        await asked(room, max_tokens=100, **options)
