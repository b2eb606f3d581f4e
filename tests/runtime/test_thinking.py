"""How much the model thinks before it answers, as every API can ask for it, on a real engine."""

import json
import secrets

import openai
import pytest
from anthropic import AsyncAnthropic
from anthropic import BadRequestError as AnthropicBadRequest
from langchain_openai import ChatOpenAI

from agent_runtime.errors import BadRequest
from agent_runtime.langchain import ChatTorpor
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.sdk import ApiError
from agent_runtime.wire.messages import Message
from engine.client import EngineClient, Sampling

from .talk import HISTORY

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMIT = 2
ON, OFF = "<think>\n", "<think></think>"
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@pytest.fixture(scope="module")
def chat(stage):
    return ChatFormat(stage.model)


@pytest.fixture
async def client(stage):
    async with openai.AsyncOpenAI(
        base_url=f"{stage.runtime.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def claude(stage):
    async with AsyncAnthropic(base_url=stage.runtime.url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def prompt_of(store, chat):
    """The text that the model has answered."""

    async def prompt_of(snapshot, prompt_tokens):
        return chat.decode(list(await store.tokens(snapshot))[:prompt_tokens])

    return prompt_of


async def begun(torpor):
    return (await torpor.create(system=f"You are {secrets.token_hex(8)}.")).id


async def test_thinking_is_ended_after_so_many_tokens_and_the_answer_follows_from_it(
    stage, torpor, store, chat
):
    """On its own the demo model ends its thinking at once: what it is to think is drawn."""
    session = await begun(torpor)
    ending = chat.encode("\n</think>\n")
    for seed in range(32):
        turn = await torpor.turn(
            session, HISTORY[0], effort="high", thinking_tokens=LIMIT, max_tokens=24,
            temperature=2.0, seed=seed,
        )  # fmt: skip
        ids = turn.token_ids
        if len(ids) > LIMIT and chat.tokenizer.token_to_id("</think>") not in ids[:LIMIT]:
            break
        await torpor.rewind(session, turns=1)
    assert ids[LIMIT : LIMIT + len(ending)] == ending
    assert turn.reasoning == chat.decode(ids[:LIMIT]).strip()
    assert turn.usage.reasoning_tokens == LIMIT + len(ending) - 1  # the line end is the answer's
    assert turn.usage.completion_tokens == len(ids) <= 24
    assert turn.usage.reused_tokens == 0
    log = list(await store.tokens(turn.snapshot))
    assert log[turn.usage.prompt_tokens :] == ids
    # What was written for the model is in its state as if it had come from it.
    engine = EngineClient(stage.engine.url)
    known = len(log) - len(ids) + LIMIT + len(ending) + 1  # the first token of an answer is drawn
    sampling = Sampling(max_new_tokens=len(log) - known, ignore_eos=True)
    chunks = engine.generate(log[:known], sampling, salt=secrets.token_hex(8))
    assert [token async for chunk in chunks for token in chunk.new_ids] == log[known:]
    await engine.close()
    following = await torpor.turn(session, HISTORY[2], max_tokens=8)
    assert following.usage.reused_tokens == following.usage.boundary_tokens > 0


async def test_a_limit_that_is_not_reached_changes_nothing(torpor):
    session = await begun(torpor)
    free = await torpor.turn(session, HISTORY[0], effort="high", max_tokens=24)
    await torpor.rewind(session, turns=1)
    limited = await torpor.turn(
        session, HISTORY[0], effort="high", thinking_tokens=16, max_tokens=24
    )
    assert (limited.token_ids, limited.finish_reason) == (free.token_ids, free.finish_reason)
    await torpor.rewind(session, turns=1)
    cut = await torpor.turn(session, HISTORY[0], effort="high", thinking_tokens=16, max_tokens=1)
    assert (cut.token_ids, cut.finish_reason) == (free.token_ids[:1], "length")
    await torpor.rewind(session, turns=1)
    unthought = await torpor.turn(session, HISTORY[0], thinking_tokens=2, max_tokens=24)
    await torpor.rewind(session, turns=1)
    plain = await torpor.turn(session, HISTORY[0], max_tokens=24)
    assert unthought.token_ids == plain.token_ids


async def test_an_answer_behind_ended_thinking_is_held_to_what_is_asked(torpor):
    session = await begun(torpor)
    turn = await torpor.turn(
        session, HISTORY[0], effort="high", thinking_tokens=1, max_tokens=48, json_schema=SCHEMA
    )
    assert isinstance(json.loads(turn.text)["x"], int)


async def test_an_effort_that_the_template_does_not_know_is_refused(torpor):
    session = await begun(torpor)
    with pytest.raises(ApiError, match="knows none, high") as refused:
        await torpor.turn(session, "Hi.", effort="medium")
    assert (refused.value.code, refused.value.status) == ("unsupported", 400)
    assert refused.value.problem.param == "effort"
    assert (await torpor.get(session)).head is None


async def test_openai_clients_choose_the_effort_and_the_templates_options(stage, client, prompt_of):
    said = [{"role": "user", "content": HISTORY[0]}]
    asked = {"model": "demo", "temperature": 0, "max_tokens": 8, "messages": said}

    async def ends(completion, with_what):
        ours = completion.choices[0].torpor
        return (await prompt_of(ours["snapshot"], ours["prompt_tokens"])).endswith(with_what)

    complete = client.chat.completions.create
    assert await ends(await complete(**asked, reasoning_effort="high"), ON)
    assert await ends(await complete(**asked, reasoning_effort="none"), OFF)
    kwargs = {"chat_template_kwargs": {"enable_thinking": True}}
    assert await ends(await complete(**asked, extra_body=kwargs), ON)
    assert await ends(await complete(**asked, extra_body={"torpor": {"template": {}}}), OFF)
    two = await complete(**asked, n=2, reasoning_effort="high")
    assert len(two.choices) == 2
    assert (await client.models.retrieve("demo")).efforts == ["none", "high"]
    with pytest.raises(openai.BadRequestError) as refused:
        await complete(**asked, reasoning_effort="low")
    assert (refused.value.code, refused.value.param) == (
        "unsupported_parameter", "reasoning_effort",
    )  # fmt: skip
    async with openai.DefaultAsyncHttpxClient() as http:
        model = ChatOpenAI(
            base_url=f"{stage.runtime.url}/v1", api_key="none", model="demo", max_tokens=8,
            reasoning_effort="high", http_async_client=http,
        )  # fmt: skip
        answer = await model.ainvoke(HISTORY[0])
    assert answer.usage_metadata["output_token_details"]["reasoning"] >= 0

    respond = client.responses.create
    asked = {"model": "demo", "temperature": 0, "max_output_tokens": 8, "input": HISTORY[0]}
    response = await respond(**asked, reasoning={"effort": "high"})
    ours = response.torpor
    assert (await prompt_of(ours["snapshot"], ours["prompt_tokens"])).endswith(ON)
    with pytest.raises(openai.BadRequestError) as refused:
        await respond(**asked, reasoning={"effort": "medium"})
    assert refused.value.param == "reasoning.effort"


async def test_anthropics_client_switches_thinking_and_limits_it(claude, prompt_of):
    said = [{"role": "user", "content": HISTORY[0]}]
    asked = {"model": "demo", "max_tokens": 1100, "messages": said}
    options = {"extra_body": {"temperature": 0}}

    async def ends(message, with_what):
        ours = message.torpor
        return (await prompt_of(ours["snapshot"], ours["prompt_tokens"])).endswith(with_what)

    on = {"type": "enabled", "budget_tokens": 1024}
    thought = await claude.messages.create(**asked, **options, thinking=on)
    assert await ends(thought, ON)
    assert thought.usage.output_tokens_details.thinking_tokens >= 0
    counted = await claude.messages.count_tokens(model="demo", messages=said, thinking=on)
    assert counted.input_tokens == thought.torpor["prompt_tokens"]
    off = await claude.messages.create(**asked, **options, thinking={"type": "disabled"})
    assert await ends(off, OFF)
    high = await claude.messages.create(**asked, **options, output_config={"effort": "high"})
    assert await ends(high, ON)
    with pytest.raises(AnthropicBadRequest, match="knows none, high"):
        await claude.messages.create(**asked, **options, output_config={"effort": "low"})
    body = {"torpor": {"template": {"enable_thinking": False}}}
    with pytest.raises(AnthropicBadRequest, match="do not agree"):
        await claude.messages.create(**asked, extra_body=body, thinking=on)


async def test_conversations_choose_what_becomes_of_their_history(torpor, client):
    system = Message(role="system", content=f"You are {secrets.token_hex(8)}.")
    said = [system, Message(role="user", content=HISTORY[0])]
    asked = {"max_tokens": 8, "effort": "high"}
    appended = await torpor.converse(said, **asked)
    shown = await torpor.converse(said, history="template", **asked)
    assert shown.session_id != appended.session_id
    assert (await torpor.get(shown.session_id)).history == "template"
    answer = Message(role="assistant", content=shown.text, reasoning=shown.reasoning)
    more = [*said, answer, Message(role="user", content=HISTORY[2])]
    following = await torpor.converse(more, history="template", **asked)
    assert following.session_id == shown.session_id
    assert following.usage.rewritten_tokens > 0

    ours = {"extra_body": {"torpor": {"history": "template"}}}
    ask = client.responses.create
    first = await ask(model="demo", input=HISTORY[0], max_output_tokens=8, **ours)
    assert (await torpor.get(first.torpor["session"])).history == "template"
    next_one = {"model": "demo", "input": HISTORY[2], "max_output_tokens": 8}
    second = await ask(**next_one, previous_response_id=first.id)
    assert second.torpor["session"] == first.torpor["session"]
    ours = {"extra_body": {"torpor": {"history": "append"}}}
    other = await ask(**next_one, previous_response_id=first.id, **ours)
    assert "torpor.history" in other.torpor["rendered_anew"]
    assert (await torpor.get(other.torpor["session"])).history == "append"


async def test_langchains_model_passes_them_on(stage, torpor):
    model = ChatTorpor(
        url=stage.runtime.url, effort="high", thinking_tokens=4, history="template", max_tokens=8
    )
    answer = await model.ainvoke(HISTORY[0])
    session = answer.response_metadata["session"]
    assert (await torpor.get(session)).history == "template"
    in_session = model.model_copy(update={"session": session})
    with pytest.raises(BadRequest, match="history"):
        await in_session.ainvoke(HISTORY[0])
