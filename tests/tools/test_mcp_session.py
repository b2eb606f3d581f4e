"""What a server promises of its answers is held against them without trusting the promise."""

import pytest
from mcp.types import CallToolResult

from tools.mcp.session import Session


def promising(**properties):
    session = object.__new__(Session)  # of a server that has listed `f`
    session._tool_output_schemas = {"f": {"type": "object", "properties": properties}}
    return session


def answer(**values):
    return CallToolResult(content=[], structuredContent=values)


@pytest.mark.timeout(60)
async def test_an_answer_that_a_pattern_would_be_searched_in_forever_is_refused_at_once():
    session = promising(x={"pattern": "^(a+)+$"})
    await session._validate_tool_result("f", answer(x="a" * 60))
    with pytest.raises(RuntimeError, match="what f has returned is not what it promises"):
        await session._validate_tool_result("f", answer(x="a" * 60 + "!"))


@pytest.mark.parametrize(
    ("schema", "values", "why"),
    [
        ({"type": "integer"}, {"x": "1"}, "is not what it promises"),
        ({"$ref": "#/properties/x"}, {"x": 1}, "cannot be used"),
    ],
)
async def test_an_answer_that_breaks_its_promise_is_no_answer(schema, values, why):
    with pytest.raises(RuntimeError, match=why):
        await promising(x=schema)._validate_tool_result("f", answer(**values))


async def test_an_answer_without_what_was_promised_is_no_answer():
    nothing = CallToolResult(content=[])
    with pytest.raises(RuntimeError, match="promises structured content"):
        await promising()._validate_tool_result("f", nothing)
