"""What clients give as schemas of tools: one client's never stop the others, nor break its own."""

import json

import openai
import pytest

from tests.backends.scripted import call, says

HELLO = {"role": "user", "content": "Hello."}


def tool(schema):
    function = {"name": "f", "parameters": {"type": "object", "properties": schema}}
    return [{"type": "function", "function": function}]


def told(**arguments):
    """A conversation in which `f` was called."""
    function = {"name": "f", "arguments": json.dumps(arguments)}
    return [
        HELLO,
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]


@pytest.mark.timeout(60)
async def test_a_pattern_that_python_would_search_forever_is_answered(scripted, said):
    tools = tool({"x": {"pattern": "^(a+)+$"}})
    said.scripted.append(says({"content": "Done."}))
    answer = await scripted.chat.completions.create(
        model="scripted", messages=told(x="a" * 60 + "!"), tools=tools
    )
    assert answer.choices[0].message.content == "Done."


async def test_a_call_of_a_tool_that_takes_anything_is_passed_on_and_known_again(scripted, said):
    tools = tool({"x": True})
    said.scripted.append(says(call("f", "c1", x="1"), finish="tool_calls"))
    answer = await scripted.chat.completions.create(model="scripted", messages=[HELLO], tools=tools)
    made = answer.choices[0].message.tool_calls[0]
    assert json.loads(made.function.arguments) == {"x": "1"}
    said.scripted.append(says({"content": "Done."}))
    whole = [
        HELLO,
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": made.id, "content": ""},
    ]
    await scripted.chat.completions.create(model="scripted", messages=whole, tools=tools)


@pytest.mark.parametrize("properties", [None, [], {"x": []}])
async def test_what_is_no_schema_is_refused_before_the_endpoint_is_asked(
    scripted, said, properties
):
    with pytest.raises(openai.BadRequestError, match="the parameters of tool 'f' are no JSON"):
        await scripted.chat.completions.create(
            model="scripted", messages=[HELLO], tools=tool(properties)
        )
    assert not said.seen


async def test_a_number_that_json_cannot_say_goes_to_clients_as_it_was_written(scripted, said):
    tools = tool({"x": {"type": "number"}})
    said.scripted.append(says(call("f", "c1", x="1e999"), finish="tool_calls"))
    answer = await scripted.chat.completions.create(model="scripted", messages=[HELLO], tools=tools)
    made = answer.choices[0].message.tool_calls[0]
    assert made.function.arguments == '{"x": "1e999"}'


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity"])
async def test_a_number_that_json_cannot_say_is_refused_in_a_clients_call(scripted, said, number):
    messages = told(x=1)
    messages[1]["tool_calls"][0]["function"]["arguments"] = f'{{"x": {number}}}'
    with pytest.raises(openai.BadRequestError, match="are not the JSON of an object"):
        await scripted.chat.completions.create(
            model="scripted", messages=messages, tools=tool({"x": True})
        )
