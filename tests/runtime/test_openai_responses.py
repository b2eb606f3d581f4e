"""`/v1/responses` of a running service, with OpenAI's own client and the Agents SDK's models."""

import asyncio
import json

import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    handoff,
)
from openai.types.responses import ResponseTextDeltaEvent

from agent_runtime.demo.script import SYSTEM

from .agents_sdk import Point, calculator
from .talk import LONG, PAGE

pytestmark = pytest.mark.usefixtures("nothing_left")

CALCULATOR = {
    "type": "function",
    "name": "calculator",
    "description": "Computes a sum, a difference or a product.",
    "parameters": {
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    },
    "strict": False,
}


@pytest.fixture
async def client(stage):
    async with openai.AsyncOpenAI(
        base_url=f"{stage.runtime.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def ask(client):
    async def ask(said, behind=None, **options):
        asked = {"model": "demo", "instructions": SYSTEM, "temperature": 0, **options}
        previous = None if behind is None else behind.id
        return await client.responses.create(input=said, previous_response_id=previous, **asked)

    return ask


@pytest.fixture
def agent(client):
    settings = ModelSettings(temperature=0)
    return Agent(
        "Ann",
        instructions=SYSTEM,
        model=OpenAIResponsesModel("demo", client),
        tools=[calculator],
        model_settings=settings,
    )


def cached(response):
    return response.usage.input_tokens_details.cached_tokens


def known(response):
    """Tokens of the prompt and the answer, which whoever follows need not compute."""
    return response.usage.total_tokens


async def test_each_branch_of_a_response_goes_on_from_its_state(ask, torpor):
    root = await ask("Remember: the code of harbour is 4712.")
    left = await ask("Remember: the code of garden is 9034.", behind=root)
    right = await ask("Remember: the code of garden is 1111.", behind=root)
    for branch, code in ((left, "9034"), (right, "1111")):
        garden = await ask("What is the code of garden?", behind=branch)
        assert garden.output_text == f"The code of garden is {code}."
        harbour = await ask("What is the code of harbour?", behind=garden)
        assert harbour.output_text == "The code of harbour is 4712."
        assert cached(harbour) >= known(garden) - PAGE
        assert harbour.torpor["recomputed_tokens"] <= PAGE
    assert left.torpor["session"] == root.torpor["session"] != right.torpor["session"]
    assert cached(right) >= known(root) - PAGE
    fork = await torpor.get(right.torpor["session"])
    assert fork.forked_from == root.torpor["session"]


async def test_a_tools_result_goes_on_where_the_state_is(ask):
    first = await ask("What is 318 + 264?", tools=[CALCULATOR])
    (called,) = first.output
    assert json.loads(called.arguments) == {"expression": "318 + 264"}
    result = {"type": "function_call_output", "call_id": called.call_id, "output": "582"}
    second = await ask([result], behind=first, tools=[CALCULATOR])
    assert second.output_text == "318 + 264 = 582."
    assert cached(second) >= known(first) - PAGE
    assert second.torpor["rendered_anew"] is None


async def test_pieces_come_as_they_are_generated(client):
    stream = client.responses.stream(
        model="demo",
        input='Repeat "one two three four".',
        instructions=SYSTEM,
        temperature=0,
    )
    async with stream as events:
        pieces = [e.delta async for e in events if e.type == "response.output_text.delta"]
        response = await events.get_final_response()
    assert "".join(pieces) == response.output_text == '"one two three four".'
    assert len(pieces) > 2


async def test_an_answer_is_parsed(client):
    parsed = await client.responses.parse(
        model="demo", input="Hello.", text_format=Point, max_output_tokens=64
    )
    assert isinstance(parsed.output_parsed, Point)


async def test_log_probabilities_are_those_of_the_text(ask):
    made = await ask(
        "Thanks.", top_logprobs=2, include=["message.output_text.logprobs"], tools=[CALCULATOR]
    )
    (part,) = made.output[0].content
    assert "".join(token.token for token in part.logprobs) == part.text == "You are welcome."
    assert {len(token.top_logprobs) for token in part.logprobs} == {2}
    assert (await ask("Thanks.")).output[0].content[0].logprobs == []


async def test_a_stream_that_is_closed_ends_its_turn(client, ask, torpor):
    root = await ask("Thanks.")
    stream = await client.responses.create(
        model="demo",
        input=LONG,
        instructions=SYSTEM,
        previous_response_id=root.id,
        max_output_tokens=2000,
        stream=True,
        extra_body={"torpor": {"regex": "([a-z]{1,9} ){1000}"}},  # far from done when it is closed
    )
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    for _ in range(100):
        session = await torpor.get(root.torpor["session"])
        if session.turn is None:
            break
        await asyncio.sleep(0.05)
    assert session.turn is None
    assert session.head == root.torpor["snapshot"]


async def test_the_agents_sdk_calls_tools_in_one_session(agent, torpor):
    run = await Runner.run(agent, "What is 318 + 264?", auto_previous_response_id=True)
    assert run.final_output == "318 + 264 = 582."
    first, second = run.raw_responses
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - PAGE
    more = await Runner.run(agent, "Thanks.", previous_response_id=run.last_response_id)
    assert more.final_output == "You are welcome."


async def test_a_run_of_the_agents_sdk_is_streamed(agent):
    run = Runner.run_streamed(agent, "What is 318 + 264?")
    pieces, kinds = [], []
    async for event in run.stream_events():
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            pieces.append(event.data.delta)
        elif event.type == "run_item_stream_event":
            kinds.append(event.item.type)
    assert kinds == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert "".join(pieces) == run.final_output == "318 + 264 = 582."


async def test_an_agent_hands_over_to_another_with_its_own_instructions(agent, client):
    other = agent.clone(name="Ben", instructions=SYSTEM + " Be brief.")
    first = agent.clone(
        name="Cleo",
        tools=[],
        handoffs=[handoff(other)],
        model_settings=ModelSettings(tool_choice="transfer_to_ben", temperature=0),
    )
    run = await Runner.run(first, "What is 318 + 264?", auto_previous_response_id=True)
    assert run.last_agent is other
    kept = [await client.responses.retrieve(one.response_id) for one in run.raw_responses]
    assert kept[1].instructions == SYSTEM + " Be brief."
    assert "instructions are not those of" in kept[1].torpor["rendered_anew"]
    assert all(one.torpor["rendered_anew"] is None for one in (kept[0], *kept[2:]))
    items = (await client.responses.input_items.list(kept[1].id, order="asc")).data
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"]


async def test_the_sdks_model_of_chat_completions_calls_tools_and_hands_over(agent, client):
    chatting = agent.clone(model=OpenAIChatCompletionsModel("demo", client))
    run = Runner.run_streamed(chatting, "What is 318 + 264?")
    kinds = [e.item.type async for e in run.stream_events() if e.type == "run_item_stream_event"]
    assert kinds == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert run.final_output == "318 + 264 = 582."
    first = chatting.clone(
        name="Cleo",
        tools=[],
        handoffs=[handoff(chatting)],
        model_settings=ModelSettings(tool_choice="transfer_to_ann", temperature=0),
    )
    handed = await Runner.run(first, "What is 12 + 30?")
    assert handed.last_agent is chatting


async def test_a_conversation_of_openais_is_one_session(client, agent):
    talk = await client.conversations.create()
    for said in ("Remember: the code of harbour is 4712.", "What is the code of harbour?"):
        run = await Runner.run(agent, said, conversation_id=talk.id)
    assert run.final_output == "The code of harbour is 4712."
    items = (await client.conversations.items.list(talk.id)).data
    assert len(items) == 4
    last = await client.responses.retrieve(run.last_response_id)
    assert last.torpor["recomputed_tokens"] <= PAGE
    await client.conversations.delete(talk.id)
