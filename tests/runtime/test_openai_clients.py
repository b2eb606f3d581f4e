"""Official clients against a live runtime: OpenAI's, and LangChain's ChatOpenAI on top of it."""

import asyncio
import json
import math

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from agent_runtime.demo.script import SYSTEM

from .talk import HISTORY, PAGE

pytestmark = pytest.mark.usefixtures("nothing_left")

ASKED = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "What is 318 + 264?"}]


class Point(BaseModel):
    """A point."""

    x: int
    bright: bool


@tool
def calculator(expression: str) -> str:
    """Computes a sum, a difference or a product."""
    one, _, other = expression.split()
    return str(int(one) + int(other))


@pytest.fixture
async def client(stage):
    async with openai.AsyncOpenAI(
        base_url=f"{stage.runtime.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def create(client):
    async def create(messages, **options):
        options = {"model": "demo", "temperature": 0, "max_tokens": 96} | options
        return await client.chat.completions.create(messages=messages, **options)

    return create


@pytest.fixture
def tools(registry):
    return [
        {"type": "function", "function": spec.model_dump(mode="json")} for spec in registry.specs()
    ]


@pytest.fixture
async def model(stage):
    # Its own would outlive the test's loop.
    async with openai.DefaultAsyncHttpxClient() as http:
        yield ChatOpenAI(
            base_url=f"{stage.runtime.url}/v1",
            api_key="none",
            model="demo",
            temperature=0,
            max_tokens=96,
            stream_usage=True,
            http_async_client=http,
        )


async def test_a_tool_is_called_and_its_result_lands_on_the_snapshot(create, registry, tools):
    first = (await create(ASKED, tools=tools)).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    outcome = await registry.call(call.function.name, json.loads(call.function.arguments))
    result = {"role": "tool", "tool_call_id": call.id, "content": outcome.text}
    second = await create([*ASKED, first.message, result], tools=tools)
    answer = second.choices[0]
    assert answer.message.content == "318 + 264 = 582."
    assert answer.torpor["parent"] == first.torpor["snapshot"]
    assert answer.torpor["recomputed_tokens"] <= PAGE
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached == answer.torpor["reused_tokens"] > 0


async def test_a_stream_says_what_the_whole_answer_does(create, torpor):
    asked = [{"role": "user", "content": 'Repeat "one two three four".'}]
    whole = (await create(asked)).choices[0].message.content
    stream = await create(asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    texts = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(texts) == whole
    assert sum(map(bool, texts)) > 2
    assert chunks[-1].usage.completion_tokens > 0


async def test_an_answer_is_parsed_into_what_was_asked_for(client):
    completion = await client.chat.completions.parse(
        model="demo", messages=ASKED[1:], response_format=Point, max_tokens=64
    )
    assert isinstance(completion.choices[0].message.parsed, Point)


async def test_several_answers_are_forks_at_the_end_of_one_prompt(create, torpor):
    completion = await create(
        [{"role": "user", "content": "Tick. " * 60}],
        n=3,
        seed=4,
        temperature=1.5,
        logprobs=True,
        response_format={"type": "json_schema", "json_schema": {
            "name": "point", "schema": Point.model_json_schema(), "strict": True
        }},
    )  # fmt: skip
    assert len(completion.choices) == 3
    for choice in completion.choices:
        assert any("the seed had no effect" in one for one in choice.torpor["problems"])
        Point.model_validate_json(choice.message.content)
    first, *others = [choice.torpor for choice in completion.choices]
    for other in others:
        assert (await torpor.get(other["session"])).forked_from == first["session"]
        assert other["prompt_tokens"] == first["prompt_tokens"] == completion.usage.prompt_tokens
        assert 0 < first["prompt_tokens"] - other["reused_tokens"] <= PAGE
    generated = sum(len(choice.logprobs.content) + 1 for choice in completion.choices)
    assert completion.usage.completion_tokens == generated  # each ends with a token of its own


async def test_forks_of_a_client_that_goes_away_are_deleted(create, torpor):
    async def made():
        return [one async for one in torpor.sessions() if one.id not in before]

    before = {session.id async for session in torpor.sessions()}
    asked = [{"role": "user", "content": "Tick. Tock."}]
    stream = await create(asked, n=2, stream=True, response_format={"type": "json_object"})
    async for chunk in stream:
        if chunk.choices[0].index == 1:
            break
    await stream.close()
    async with asyncio.timeout(60):
        while len(left := await made()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert left[0].forked_from is None


async def test_log_probabilities_are_of_the_texts_tokens(create):
    asked = [{"role": "user", "content": 'Repeat "one two ä three four".'}]
    completion = await create(asked, logprobs=True, top_logprobs=3)
    (choice,) = completion.choices
    positions = choice.logprobs.content
    spelled = b"".join(bytes(one.bytes) for one in positions)
    assert spelled.decode() == choice.message.content
    for one in positions:
        assert len(one.top_logprobs) == 3
        assert one.logprob == pytest.approx(one.top_logprobs[0].logprob, abs=1e-6)  # greedy
        assert sum(math.exp(other.logprob) for other in one.top_logprobs) <= 1.0001
    plain = (await create(asked, logprobs=True)).choices[0].logprobs.content
    assert [(one.token, one.top_logprobs) for one in plain] == [
        (one.token, []) for one in positions
    ]


async def test_log_probabilities_end_before_the_text_that_ended_the_answer(create):
    asked = [{"role": "user", "content": "Thanks."}]
    stream = await create(asked, logprobs=True, stop=["welcome"], stream=True)
    *pieces, last = [chunk.choices[0] async for chunk in stream]
    assert "".join(piece.delta.content or "" for piece in pieces) == "You are"
    assert last.torpor["stopped_by"] == "welcome"
    assert "".join(one.token for one in last.logprobs.content).strip() == "You are"


async def test_one_call_at_most_is_made_where_calls_are_not_parallel(create, tools):
    completion = await create(ASKED, tools=tools, parallel_tool_calls=False)
    (call,) = completion.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"expression": "318 + 264"}


async def test_another_grammar_is_refused_by_name(create):
    odd = {"type": "object", "properties": {"x": {"type": "integer", "multipleOf": 7}}}
    with pytest.raises(openai.BadRequestError) as refused:
        await create(ASKED, response_format={
            "type": "json_schema", "json_schema": {"name": "odd", "schema": odd}
        })  # fmt: skip
    assert refused.value.code == "grammar_refused"


async def test_a_conversation_of_another_client_goes_on(create, torpor):
    said = [{"role": "user", "content": HISTORY[0]}]
    native = await torpor.converse(said, max_tokens=48)
    message = {"role": "assistant", "content": native.text}
    answer = (await create([*said, message, ASKED[1]])).choices[0]
    assert answer.torpor["session"] == native.session_id


async def test_an_agent_of_langchain_works_unchanged(model):
    agent = create_agent(model, [calculator], system_prompt=SYSTEM)
    messages = (await agent.ainvoke({"messages": [HumanMessage("What is 318 + 264?")]}))["messages"]
    assert messages[1].tool_calls[0]["args"] == {"expression": "318 + 264"}
    assert messages[-1].text == "318 + 264 = 582."
    assert messages[-1].usage_metadata["input_token_details"]["cache_read"] > 0


async def test_langchain_streams(model):
    chunks = [chunk async for chunk in model.astream('Repeat "one two three four".')]
    assert "".join(chunk.text for chunk in chunks) == '"one two three four".'
    assert len([chunk for chunk in chunks if chunk.text]) > 2
    (usage,) = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert usage["output_tokens"] > 0


async def test_langchain_gets_structured_output(model):
    for method in ("json_schema", "function_calling"):
        point = await model.with_structured_output(Point, method=method).ainvoke("Hello.")
        assert isinstance(point, Point)
