"""How much a model is to think, and what its template is given, over an endpoint that decides."""

import anthropic
import httpx
import httpx2
import openai
import pytest
from agents import Agent, ModelSettings, Runner, set_tracing_disabled
from openai.types.shared import Reasoning

from agent_runtime.errors import BadRequest
from agent_runtime.langchain import ChatTorpor
from agent_runtime.openai_agents import TorporModel
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.wire.messages import Message
from tests.backends.endpoint import DONE, Scripted, event
from tests.backends.scripted import says

set_tracing_disabled(True)
HELLO = [{"role": "user", "content": "Hello."}]
THOUGHT = Scripted(
    event({"reasoning_content": "Hm."})
    + event({"content": "Hello."})
    + event(finish_reason="stop")
    + event(
        usage={
            "prompt_tokens": 9,
            "completion_tokens": 7,
            "completion_tokens_details": {"reasoning_tokens": 5},
        }
    )
    + DONE
)


@pytest.fixture
async def claude(scripted_app):
    transport = httpx2.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with anthropic.AsyncAnthropic(
        base_url="http://scripted",
        api_key="none",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=transport),
    ) as client:
        yield client


@pytest.fixture
async def scripted_torpor(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with Torpor("http://scripted", transport=transport) as torpor:
        yield torpor


def effort_sent(said):
    return said.seen[-1][1].get("reasoning_effort")


async def test_an_effort_goes_on_to_the_endpoint_from_every_api(
    scripted, claude, scripted_torpor, said
):
    said.scripted += [THOUGHT] * 5
    completion = await scripted.chat.completions.create(
        model="scripted", messages=HELLO, reasoning_effort="minimal"
    )
    assert effort_sent(said) == "minimal"
    assert completion.usage.completion_tokens_details.reasoning_tokens == 5
    response = await scripted.responses.create(
        model="scripted", input="Hello.", reasoning={"effort": "low"}
    )
    assert (effort_sent(said), response.reasoning.effort) == ("low", "low")
    assert response.usage.output_tokens_details.reasoning_tokens == 5
    asked = {"model": "scripted", "max_tokens": 96, "messages": HELLO}
    message = await claude.messages.create(**asked, output_config={"effort": "max"})
    assert effort_sent(said) == "max"
    assert message.usage.output_tokens_details.thinking_tokens == 5
    await claude.messages.create(**asked, thinking={"type": "disabled"})
    assert effort_sent(said) == "none"
    result = await scripted_torpor.converse([Message(role="user", content="Hello.")], effort="high")
    assert (effort_sent(said), result.usage.reasoning_tokens) == ("high", 5)


async def test_without_one_the_endpoint_is_told_nothing(scripted, said):
    said.scripted.append(says({"content": "Hello."}))
    completion = await scripted.chat.completions.create(model="scripted", messages=HELLO)
    assert "reasoning_effort" not in said.seen[-1][1]
    assert completion.usage.completion_tokens_details.reasoning_tokens == 0


async def test_an_effort_goes_on_from_the_frameworks_models(runtime, endpoint):
    endpoint.scripted += [THOUGHT] * 2
    answer = await ChatTorpor(url=runtime.url, effort="low").ainvoke("Hello.")
    assert (effort_sent(endpoint), answer.text) == ("low", "Hello.")
    settings = ModelSettings(reasoning=Reasoning(effort="high"))
    agent = Agent("Ann", model=TorporModel(runtime.url), model_settings=settings)
    run = await Runner.run(agent, "Hello.")
    assert (effort_sent(endpoint), run.final_output) == ("high", "Hello.")
    assert run.raw_responses[0].usage.output_tokens_details.reasoning_tokens == 5
    summed = ModelSettings(reasoning=Reasoning(effort="high", summary="auto"))
    with pytest.raises(BadRequest, match="not summed up"):
        await Runner.run(agent.clone(model_settings=summed), "Hello.")


@pytest.mark.parametrize(
    "options",
    [
        {"thinking_tokens": 9},
        {"template": {"enable_thinking": False}},
        {"history": "template"},
    ],
)
async def test_what_an_endpoint_cannot_be_asked_is_refused(
    scripted, claude, scripted_torpor, said, options
):
    ours = {"extra_body": {"torpor": options}}
    before = [one.id async for one in scripted_torpor.sessions()]
    for refused in (
        scripted.chat.completions.create(model="scripted", messages=HELLO, **ours),
        scripted.responses.create(model="scripted", input="Hello.", **ours),
    ):
        with pytest.raises(openai.BadRequestError) as why:
            await refused
        assert why.value.code == "needs_state"
    with pytest.raises(anthropic.BadRequestError) as why:
        await claude.messages.create(model="scripted", max_tokens=9, messages=HELLO, **ours)
    assert why.value.error_code == "needs_state"
    with pytest.raises(ApiError) as why:
        await scripted_torpor.converse([Message(role="user", content="Hello.")], **options)
    assert why.value.code == "needs_state"
    assert [one.id async for one in scripted_torpor.sessions()] == before


async def test_what_a_request_says_twice_is_refused(scripted, claude, said):
    both = {"chat_template_kwargs": {"a": 1}, "torpor": {"template": {"a": 2}}}
    with pytest.raises(openai.BadRequestError) as why:
        await scripted.chat.completions.create(model="scripted", messages=HELLO, extra_body=both)
    assert why.value.param == "chat_template_kwargs"
    with pytest.raises(anthropic.BadRequestError, match="thinking is disabled"):
        await claude.messages.create(
            model="scripted",
            max_tokens=96,
            messages=HELLO,
            thinking={"type": "disabled"},
            output_config={"effort": "low"},
        )
    thought = {
        "top_logprobs": 1,
        "logprobs": True,
        "extra_body": {"torpor": {"thinking_tokens": 1}},
    }
    with pytest.raises(openai.BadRequestError, match="no log-probabilities"):
        await scripted.chat.completions.create(model="scripted", messages=HELLO, **thought)
