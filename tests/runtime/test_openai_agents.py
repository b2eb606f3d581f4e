"""The OpenAI Agents SDK's own Runner, with its sessions and tools, against the runtime."""

import secrets

import pytest
from agents import Agent, ModelSettings, Runner, ToolsToFinalOutputResult
from agents.memory import Session
from agents.models.interface import ModelTracing
from openai.types.responses import ResponseTextDeltaEvent

from agent_runtime.demo.script import SYSTEM
from agent_runtime.errors import BadRequest, TextOnly
from agent_runtime.openai_agents import TorporModel, TorporSession
from agent_runtime.sdk import ApiError

from .agents_sdk import Point, calculator
from .talk import PAGE

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def model(stage):
    return TorporModel(stage.runtime.url)


@pytest.fixture
def agent(model):
    settings = ModelSettings(max_tokens=96)
    return Agent(
        "Ann", instructions=SYSTEM, model=model, tools=[calculator], model_settings=settings
    )


@pytest.fixture
async def talk(stage):
    session = TorporSession(f"ann:{secrets.token_hex(4)}", url=stage.runtime.url)
    yield session
    await session.clear_session()


async def test_a_run_calls_tools_and_goes_on_where_the_state_is(agent):
    run = await Runner.run(agent, "What is 318 + 264?")
    assert run.final_output == "318 + 264 = 582."
    first, second = run.raw_responses
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - PAGE
    assert first.response_id.startswith("snp-")


async def test_a_session_remembers_from_run_to_run(agent, talk, torpor):
    await Runner.run(agent, "Remember: the code of harbour is 4712.", session=talk)
    await Runner.run(agent, "What is 12 + 30?", session=talk)
    run = await Runner.run(agent, "What is the code of harbour?", session=talk)
    assert run.final_output == "The code of harbour is 4712."
    types = [item.get("type", item.get("role")) for item in await talk.get_items()]
    assert types == [
        *("user", "message"),
        *("user", "function_call", "function_call_output", "message"),
        *("user", "message"),
    ]
    usage = run.raw_responses[0].usage
    assert usage.input_tokens - usage.input_tokens_details.cached_tokens <= 2 * PAGE


async def test_a_run_is_streamed(agent):
    run = Runner.run_streamed(agent, "What is 318 + 264?")
    pieces, kinds = [], []
    async for event in run.stream_events():
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            pieces.append(event.data.delta)
        elif event.type == "run_item_stream_event":
            kinds.append(event.item.type)
    assert kinds == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert "".join(pieces) == run.final_output == "318 + 264 = 582."
    assert len(pieces) > 2


async def test_an_answer_is_made_of_a_type(model):
    agent = Agent("Ann", model=model, output_type=Point)
    run = await Runner.run(agent, "Hello.")
    assert isinstance(run.final_output, Point)


async def test_a_tool_is_called_where_one_is_required(agent):
    forced = agent.clone(
        model_settings=ModelSettings(tool_choice="calculator", parallel_tool_calls=False),
        tool_use_behavior=lambda _, results: _end(results),
    )
    with pytest.raises(ApiError, match="tools are: calculator"):
        await Runner.run(agent.clone(model_settings=ModelSettings(tool_choice="fly")), "Hello.")
    run = await Runner.run(forced, "What is 5 + 6?")
    assert run.final_output == "11"


def _end(results):
    return ToolsToFinalOutputResult(is_final_output=True, final_output=results[0].output)


async def test_items_are_kept_popped_and_cleared(talk):
    assert isinstance(talk, Session)
    assert await talk.get_items() == []
    assert await talk.pop_item() is None
    items = [{"role": "user", "content": f"{number} ü"} for number in range(4)]
    await talk.add_items(items[:2])
    await talk.add_items(items[2:])
    assert await talk.get_items() == items
    assert await talk.get_items(limit=2) == items[2:]
    assert await talk.pop_item() == items[3]
    assert await talk.get_items() == items[:3]
    await talk.clear_session()
    assert await talk.get_items() == []


async def test_a_name_that_is_no_name_is_refused(stage):
    with pytest.raises(ApiError) as refused:
        await TorporSession("no name", url=stage.runtime.url).get_items()
    assert refused.value.code == "invalid_request"


@pytest.mark.parametrize(
    "asked",
    [
        {"previous_response_id": "resp_1"},
        {"settings": ModelSettings(frequency_penalty=0.5)},
        {"settings": ModelSettings(store=True)},
    ],
)
async def test_what_would_be_without_effect_is_refused(model, asked):
    with pytest.raises(BadRequest, match="Nothing was generated"):
        await answered(model, "Hello.", **asked)


async def test_an_image_is_refused(model):
    content = [{"type": "input_image", "image_url": "data:,", "detail": "auto"}]
    with pytest.raises(TextOnly, match="image_url"):
        await answered(model, [{"role": "user", "content": content}])


async def test_fields_of_a_turn_are_given_as_extra_arguments(model):
    settings = ModelSettings(extra_args={"stop": ["welcome"]})
    response = await answered(model, "Thanks.", settings=settings)
    assert response.output[0].content[0].text == "You are"


async def answered(model, said, *, settings=None, previous_response_id=None):
    return await model.get_response(
        None,
        said,
        settings or ModelSettings(),
        [],
        None,
        [],
        ModelTracing.DISABLED,
        previous_response_id=previous_response_id,
        conversation_id=None,
        prompt=None,
    )
