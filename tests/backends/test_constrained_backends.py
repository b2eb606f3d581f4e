"""What an answer must be, asked of an endpoint in its own protocol."""

import json

import pytest

from agent_runtime.demo.script import SYSTEM
from agent_runtime.sdk import ApiError
from agent_runtime.wire.constraints import NamedTool
from tools.calculator import calculator

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "colour": {"enum": ["red", "blue"]}},
    "required": ["x", "colour"],
    "additionalProperties": False,
}


@pytest.fixture
async def session(torpor):
    session = await torpor.create(system=SYSTEM, tools=[calculator.spec])
    yield session
    await torpor.delete(session.id)


async def test_an_endpoint_is_held_to_a_schema(torpor):
    bare = await torpor.create(system=SYSTEM)
    turn = await torpor.turn(bare.id, "Hello.", json_schema=POINT)
    assert json.loads(turn.text)["colour"] in ("red", "blue")
    await torpor.delete(bare.id)


async def test_an_endpoint_is_told_which_tool_to_call(torpor, session, endpoint):
    choices = ["none", "required", NamedTool(name="calculator")]
    for choice in choices:
        await torpor.turn(
            session.id, "What is 3 + 4?", tool_choice=choice, parallel_tool_calls=False
        )
    sent = [body for _, body in endpoint.seen[-3:]]
    named = {"type": "function", "function": {"name": "calculator"}}
    assert [body["tool_choice"] for body in sent] == ["none", "required", named]
    assert [body["parallel_tool_calls"] for body in sent] == [False] * 3


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"regex": "a"}, "needs_state"),
        ({"ebnf": 'root ::= "a"'}, "needs_state"),
        ({"tool_choice": NamedTool(name="fly")}, "unknown_tool"),
    ],
)
async def test_what_the_protocol_cannot_say_is_refused(torpor, session, asked, code):
    with pytest.raises(ApiError) as refused:
        await torpor.turn(session.id, "Hello.", **asked)
    assert refused.value.code == code
    assert (await torpor.get(session.id)).head is None


async def test_an_endpoint_ends_its_answer_at_a_text(torpor, session):
    turn = await torpor.turn(session.id, "Thanks.", stop=["are"])
    assert turn.text == "You"
