"""Anthropic's own client, unchanged, on a live service."""

import itertools
import secrets

import httpx
import pytest
from anthropic import AsyncAnthropic, BadRequestError, NotFoundError, beta_async_tool
from pydantic import BaseModel

from agent_runtime.demo.script import SYSTEM
from tests.runtime.talk import HISTORY, PAGE, TEXT

pytestmark = pytest.mark.usefixtures("nothing_left")

GREEDY = {"temperature": 0}  # the client's methods have no such parameter any more
CALCULATOR = {
    "name": "calculator",
    "description": "Computes a sum, a difference or a product.",
    "input_schema": {
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    },
}


class Point(BaseModel):
    x: int
    bright: bool


@pytest.fixture
async def client(stage):
    async with AsyncAnthropic(base_url=stage.runtime.url, api_key="any", max_retries=0) as client:
        yield client


def asked(said, **options):
    """What every request here has."""
    return {
        "model": "demo",
        "max_tokens": 96,
        "system": SYSTEM,
        "messages": said,
        "extra_body": GREEDY,
        **options,
    }


def user(text):
    return {"role": "user", "content": text}


async def calculated(expression):
    one, sign, other = expression.split()
    assert sign == "+"
    return str(int(one) + int(other))


def prompt_tokens(usage):
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


async def test_a_conversation_lands_on_the_snapshot_that_it_led_to(client):
    said, answers = [], []
    for text in [*HISTORY[:3], "What is the code of harbour?"]:
        said.append(user(text))
        answers.append(await client.messages.create(**asked(said)))
        said.append(answers[-1].to_param())
    assert answers[-1].content[0].text == "The code of harbour is 4712."
    assert {answer.stop_reason for answer in answers} == {"end_turn"}
    assert len({answer.torpor["session"] for answer in answers}) == 1
    for before, answer in itertools.pairwise(answers):
        assert answer.torpor["parent"] == before.torpor["snapshot"]
        assert answer.usage.cache_read_input_tokens >= prompt_tokens(before.usage) - PAGE
        assert answer.torpor["recomputed_tokens"] <= PAGE
    assert answers[-1].usage.cache_read_input_tokens > 0


async def test_a_stream_has_the_same_answer_in_pieces(client):
    request = asked([user('Repeat "one two three four".')])
    whole = await client.messages.create(**request)
    async with client.messages.stream(**request) as stream:
        events = [event async for event in stream]
        told = await stream.get_final_message()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    pieces = [event.text for event in events if event.type == "text"]
    assert len(pieces) > 1
    assert "".join(pieces) == told.content[0].text == whole.content[0].text
    assert told.usage.output_tokens == whole.usage.output_tokens
    assert prompt_tokens(told.usage) == prompt_tokens(whole.usage)
    (delta,) = [event for event in events if event.type == "message_delta"]
    assert delta.torpor["snapshot"].startswith("snp-")


@pytest.mark.parametrize("streams", [False, True])
async def test_a_tool_is_used_and_its_result_read(client, streams):
    said = [user("What is 318 + 264?")]
    request = asked(said, tools=[CALCULATOR])
    if streams:
        async with client.messages.stream(**request) as stream:
            first = await stream.get_final_message()
    else:
        first = await client.messages.create(**request)
    assert first.stop_reason == "tool_use"
    (use,) = [block for block in first.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("calculator", {"expression": "318 + 264"})
    content = [{"type": "text", "text": await calculated(**use.input)}]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": content}
    said += [first.to_param(), {"role": "user", "content": [result]}]
    second = await client.messages.create(**asked(said, tools=[CALCULATOR]))
    assert second.content[0].text == "318 + 264 = 582."
    assert second.usage.cache_read_input_tokens > 0
    assert second.torpor["recomputed_tokens"] <= PAGE


async def test_the_clients_own_loop_runs_tools(client):
    @beta_async_tool
    async def calculator(expression: str) -> str:
        """Computes a sum, a difference or a product."""
        return await calculated(expression)

    runner = client.beta.messages.tool_runner(
        **asked([user("What is 12 + 30?")], tools=[calculator])
    )
    assert (await runner.until_done()).content[0].text == "12 + 30 = 42."


@pytest.mark.parametrize(
    ("choice", "uses"),
    [
        ({"type": "any"}, True),
        ({"type": "tool", "name": "calculator"}, True),
        ({"type": "none"}, False),
        ({"type": "auto", "disable_parallel_tool_use": True}, False),
    ],
)
async def test_the_choice_of_tools_is_kept(client, choice, uses):
    request = asked([user("Tick.")], tools=[CALCULATOR], tool_choice=choice)
    answer = await client.messages.create(**request)
    used = [block for block in answer.content if block.type == "tool_use"]
    assert bool(used) is uses
    assert (answer.stop_reason == "tool_use") is uses


async def test_an_answer_is_parsed_as_the_type_that_was_asked_for(client):
    answer = await client.messages.parse(**asked([user("Tick.")], output_format=Point))
    assert isinstance(answer.parsed_output, Point)


async def test_an_answer_says_why_it_ended(client):
    question = [user('Repeat "one two three four".')]
    cut = await client.messages.create(**asked(question, max_tokens=2))
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)
    stopped = await client.messages.create(**asked(question, stop_sequences=["three"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "three")
    assert stopped.content[0].text.strip().endswith("two")


async def test_tokens_are_counted_as_an_answer_counts_them(client):
    prompt = {"model": "demo", "system": SYSTEM, "tools": [CALCULATOR]}
    said = [user("What is 77 + 5?")]
    counted = await client.messages.count_tokens(**prompt, messages=said)
    answer = await client.messages.create(**asked(said, tools=[CALCULATOR]))
    assert counted.input_tokens == prompt_tokens(answer.usage)


@pytest.mark.parametrize(
    ("changed", "error", "code", "says"),
    [
        ({"model": "claude-opus-5"}, NotFoundError, "model_not_found", "served are: demo"),
        ({"extra_body": {"top_k": 5}}, BadRequestError, "invalid_request", "top_k"),
        ({"max_tokens": 0}, BadRequestError, "invalid_request", "max_tokens"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, BadRequestError,
         "invalid_request", "web_search_20250305"),
        ({"output_config": {"effort": "low"}}, BadRequestError, "unsupported", "none, high"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, BadRequestError,
         "unsupported", "disabled"),
        ({"tool_choice": {"type": "any"}}, BadRequestError, "unknown_tool", "tools are: none"),
        ({"messages": [user("Hi."), {"role": "assistant", "content": "I"}]}, BadRequestError,
         "bad_request", "ends with"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {
            "type": "url", "url": "http://x/y.png"}}]}]}, BadRequestError, "invalid_request",
         "image"),
        ({"messages": [user("Hi."), {"role": "assistant", "content": [
            {"type": "tool_use", "id": "a", "name": "calculator", "input": {}}]}, {
            "role": "user", "content": [{"type": "tool_result", "tool_use_id": "b"}]}]},
         BadRequestError, "wrong_message", "'b'"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_the_clients_own_error(client, changed, error, code, says):
    with pytest.raises(error, match=says) as refused:
        await client.messages.create(**asked([user("Tick.")], **changed))
    assert refused.value.error_code == code
    assert refused.value.request_id.startswith("req-")


async def test_thinking_that_may_be_none_is_taken(client):
    answer = await client.messages.create(**asked([user("Tick.")], thinking={"type": "adaptive"}))
    assert answer.content[0].type == "text"


async def test_a_repeated_request_with_a_key_is_answered_as_the_first_was(client):
    request = asked([user("What is 4 + 4?")], tools=[CALCULATOR])
    request["extra_headers"] = {"Idempotency-Key": "anthropic-1"}
    first, again = [await client.messages.create(**request) for _ in range(2)]
    assert again.torpor["replayed"]
    assert again.id == first.id
    assert again.content == first.content


async def test_versions_of_the_protocol_that_are_not_known_are_refused(stage):
    body = {"model": "demo", "max_tokens": 4, "temperature": 0, "messages": [user("Tick.")]}
    async with httpx.AsyncClient(base_url=stage.runtime.url, trust_env=False) as http:
        older = await http.post(
            "/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"}
        )
        missing = await http.post("/v1/messages", json=body)
        unknown = await http.post(
            "/v1/messages", json=body, headers={"anthropic-version": "2022-01-01"}
        )
    assert older.status_code == 200
    assert older.json()["role"] == "assistant"
    for refused in (missing, unknown):
        assert refused.status_code == 400
        assert "anthropic-version" in refused.json()["error"]["message"]


async def test_what_is_marked_for_the_cache_is_not_computed_by_another_conversation(client):
    system = [
        {
            "type": "text",
            "text": f"You are {secrets.token_hex(8)}. {TEXT}",
            "cache_control": {"type": "ephemeral"},
        }
    ]
    texts = [f"{number}: {TEXT}" for number in range(2)]
    first, second = [
        await client.messages.create(**asked([user(text)], system=system)) for text in texts
    ]
    assert first.usage.cache_read_input_tokens == 0
    assert second.usage.cache_read_input_tokens > PAGE
