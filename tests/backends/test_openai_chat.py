"""`/v1/chat/completions` for OpenAI's own client, over an endpoint whose answers are given here."""

import json
import re

import openai
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from agent_runtime.openai_api.chat_models import UNSUPPORTED, ChatRequest
from tests.backends.endpoint import DONE, USAGE, Scripted, event

HELLO = [{"role": "user", "content": "Hello."}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


@pytest.fixture
async def client(runtime):
    async with openai.AsyncOpenAI(
        base_url=f"{runtime.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def create(client):
    async def create(messages=HELLO, **options):
        return await client.chat.completions.create(model="demo", messages=messages, **options)

    return create


@pytest.fixture
def answers(endpoint):
    """The endpoint's next answers, all of which must be asked for."""
    yield endpoint.scripted
    left = len(endpoint.scripted)
    endpoint.scripted.clear()
    assert left == 0


@pytest.fixture
def sent(endpoint):
    """The last request that the endpoint has seen."""
    return lambda: endpoint.seen[-1][1]


def said(text, thought="", finish="stop"):
    stream = event({"reasoning_content": thought}) if thought else ""
    stream += event({"content": text[:2]}) + event({"content": text[2:]})
    return Scripted(stream + event(finish_reason=finish) + USAGE + DONE)


def called(*calls):
    deltas = [
        {"index": n, "id": f"c{n}", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate(calls)
    ]
    return Scripted(
        event({"tool_calls": deltas}) + event(finish_reason="tool_calls") + USAGE + DONE
    )


async def chunks_of(stream):
    return [chunk async for chunk in stream]


async def test_an_answer_has_openais_form(create, answers):
    answers.append(said("Good day."))
    completion = await create()
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Good day.")
    assert (choice.finish_reason, choice.index, choice.message.tool_calls) == ("stop", 0, None)
    assert (completion.object, completion.model) == ("chat.completion", "demo")
    assert completion.id.startswith("chatcmpl-")
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (9, 2, 11)
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert usage.completion_tokens_details.reasoning_tokens == 0


async def test_what_the_runtime_did_is_under_one_name(create, answers, torpor):
    answers += [said("Good day."), said("Yes.")]
    first = (await create()).choices[0]
    more = [*HELLO, first.message, {"role": "user", "content": "Still there?"}]
    second = (await create(more)).choices[0]
    assert second.torpor["session"] == first.torpor["session"]
    assert second.torpor["parent"] == first.torpor["snapshot"]
    assert second.torpor["recompute_reason"] == "the backend keeps no state"
    assert second.torpor["durable"] == "memory"
    assert (await torpor.get(first.torpor["session"])).head == second.torpor["snapshot"]


async def test_chunks_are_as_openais(create, answers):
    answers.append(said("Good day."))
    stream = await create(stream=True, stream_options={"include_usage": True})
    chunks = await chunks_of(stream)
    *pieces, last, usage = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content for piece in pieces) == "Good day."
    assert all(piece.choices[0].finish_reason is None for piece in pieces)
    assert last.choices[0].finish_reason == "stop"
    assert last.choices[0].delta.content is None
    assert last.choices[0].torpor["snapshot"]
    assert (usage.choices, usage.usage.total_tokens) == ([], 11)
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stream_ends_as_the_protocol_says(client, answers):
    answers.append(said("Yes."))
    body = {"model": "demo", "messages": HELLO, "stream": True}
    raw = await client.chat.completions.with_raw_response.create(**body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    text = (
        raw.http_response.text if raw.http_response.is_closed else await raw.http_response.aread()
    )
    text = text.decode() if isinstance(text, bytes) else text
    events = re.findall(r"^data: (.*)$", text, re.M)
    assert events[-1] == "[DONE]"
    assert all("usage" not in json.loads(one) for one in events[:-1])


async def test_openais_helper_puts_the_chunks_together(client, answers):
    answers.append(called(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})))
    strict = {"type": "function", "function": {**ADD["function"], "strict": True}}
    async with client.chat.completions.stream(
        model="demo", messages=HELLO, tools=[strict]
    ) as stream:
        completion = await stream.get_final_completion()
    (choice,) = completion.choices
    calls = choice.message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [
        {"a": 1, "b": 2},
        {"a": 3, "b": 4},
    ]
    assert len({call.id for call in calls}) == 2
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None


async def test_results_are_told_in_the_order_of_their_calls(create, answers, sent):
    answers += [called(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})), said("3 and 7.")]
    message = (await create(tools=[ADD])).choices[0].message
    one, other = message.tool_calls
    results = [
        {"role": "tool", "tool_call_id": other.id, "content": "7"},
        {"role": "tool", "tool_call_id": one.id, "content": [{"type": "text", "text": "3"}]},
    ]
    answer = (await create([*HELLO, message, *results], tools=[ADD])).choices[0]
    assert answer.message.content == "3 and 7."
    told = sent()["messages"][1:]
    assert [json.loads(call["function"]["arguments"])["a"] for call in told[0]["tool_calls"]] == [
        1,
        3,
    ]
    assert [message["content"] for message in told[1:]] == ["3", "7"]
    assert answer.torpor["parent"] is not None


async def test_reasoning_comes_apart_and_may_be_sent_back(create, answers):
    answers += [said("Good day.", thought="Polite."), said("Yes."), said("No.")]
    stream = await create(stream=True)
    deltas = [chunk.choices[0].delta for chunk in await chunks_of(stream)]
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    text = "".join(delta.content or "" for delta in deltas)
    assert (thought, text) == ("Polite.", "Good day.")
    follows = {"role": "user", "content": "Still there?"}
    for reasoning, answer in (({"reasoning_content": "Polite."}, "Yes."), ({}, "No.")):
        message = {"role": "assistant", "content": "Good day.", **reasoning}
        choice = (await create([*HELLO, message, follows])).choices[0]
        assert choice.message.content == answer
        assert choice.torpor["parent"] is not None


async def test_reasoning_that_was_changed_is_another_conversation(create, answers):
    answers += [said("Good day.", thought="Polite."), said("Yes.")]
    message = (await create()).choices[0].message
    assert message.reasoning_content == "Polite."
    changed = {"role": "assistant", "content": "Good day.", "reasoning_content": "Rude."}
    follows = {"role": "user", "content": "Still there?"}
    choice = (await create([*HELLO, changed, follows])).choices[0]
    assert choice.torpor["parent"] is None


async def test_how_many_tokens_were_reasoning_is_not_made_up(create, answers):
    answers.append(said("Good day.", thought="Polite."))
    usage = (await create()).usage
    assert usage.completion_tokens_details.reasoning_tokens is None


async def test_options_are_the_turns(create, answers, sent):
    answers.append(said("Good day."))
    await create(
        [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *HELLO],
        tools=[ADD],
        tool_choice={"type": "function", "function": {"name": "add"}},
        parallel_tool_calls=False,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        stop="!",
        max_completion_tokens=5,
        response_format={"type": "json_object"},
        user="ann",
        safety_identifier="a",
        prompt_cache_key="b",
    )
    body = sent()
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    options = ("parallel_tool_calls", "temperature", "top_p", "seed", "stop", "max_tokens")
    assert [body[name] for name in options] == [False, 0.5, 0.9, 7, ["!"], 5]
    assert "response_format" not in body  # an answer that is calls has no text


async def test_what_is_not_said_is_what_openai_documents(create, answers, sent):
    answers.append(said("Good day."))
    await create(response_format={"type": "text"}, tool_choice="none", n=1, stop=None)
    body = sent()
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 1.0, 4096)
    assert not {"tools", "tool_choice", "stop", "seed", "response_format"} & body.keys()


@pytest.mark.parametrize(
    ("asked", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
            {"type": "array"},
        ),
    ],
)
async def test_formats_hold_the_answer(create, answers, sent, asked, schema):
    answers.append(said("[]"))
    await create(response_format=asked)
    assert sent()["response_format"]["json_schema"]["schema"] == schema


async def test_metadata_are_labels_of_the_session_that_is_made(create, answers, torpor):
    answers.append(said("Good day."))
    choice = (await create(metadata={"team": "red"})).choices[0]
    assert (await torpor.get(choice.torpor["session"])).labels == {"team": "red"}


async def test_several_answers_are_each_a_session_and_each_can_be_gone_on_with(create, answers):
    answers += [said("One."), said("Two."), said("Three.")]
    completion = await create(n=3, seed=1)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert {choice.message.content for choice in completion.choices} == {"One.", "Two.", "Three."}
    assert completion.usage.completion_tokens == 6
    assert completion.usage.prompt_tokens == 9
    for choice in completion.choices:
        answers.append(said("Yes."))
        more = [*HELLO, choice.message, {"role": "user", "content": "Sure?"}]
        following = (await create(more)).choices[0]
        assert following.torpor["session"] == choice.torpor["session"]


async def test_several_answers_come_in_one_stream(create, answers):
    answers += [said("One."), said("Two.", thought="Hm.")]
    stream = await create(n=2, stream=True, stream_options={"include_usage": True})
    *chunks, last = await chunks_of(stream)
    choices = [chunk.choices[0] for chunk in chunks]
    texts = ["".join(one.delta.content or "" for one in choices if one.index == n) for n in (0, 1)]
    assert texts == ["One.", "Two."]
    assert [one.finish_reason for one in choices].count("stop") == 2
    assert [one.delta.role for one in choices].count("assistant") == 2
    assert last.usage.completion_tokens == 4


async def test_one_answer_that_fails_fails_the_request_and_leaves_the_first(
    create, answers, torpor
):
    before = {session.id async for session in torpor.sessions()}
    answers += [said("One."), Scripted("{}", status=401, headers={})]
    with pytest.raises(openai.InternalServerError) as refused:
        await create([{"role": "user", "content": "Twice."}], n=2)
    assert refused.value.code == "backend_unauthorized"
    (left,) = [one async for one in torpor.sessions() if one.id not in before]
    assert left.head is not None


async def test_an_answer_is_given_again_to_who_repeats_the_request(create, answers):
    key = {"extra_headers": {"Idempotency-Key": "openai-once"}}
    answers.append(called(("add", {"a": 1, "b": 2})))
    first = await create(tools=[ADD], **key)
    again = await create(tools=[ADD], **key)
    assert again.id == first.id
    assert again.choices[0].message == first.choices[0].message
    assert again.choices[0].torpor["replayed"]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        await create([{"role": "user", "content": "Another."}], tools=[ADD], **key)
    assert refused.value.code == "key_reused"


async def test_an_error_behind_the_first_chunk_ends_the_stream(create, answers):
    answers.append(Scripted(event({"content": "Good"}) + event(error={"message": "broke"})))
    stream = await create(stream=True)
    with pytest.raises(openai.APIError, match="broke") as broken:
        await chunks_of(stream)
    assert broken.value.code == "engine_refused"


async def test_an_error_before_the_first_chunk_has_its_status(create, answers):
    answers.append(Scripted('{"error": "no"}', status=401, headers={}))
    with pytest.raises(openai.InternalServerError) as refused:
        await create(stream=True)
    assert (refused.value.code, refused.value.type) == ("backend_unauthorized", "server_error")


async def test_the_client_repeats_what_may_work_later(runtime, endpoint, answers):
    busy = Scripted("{}", status=503, headers={"Retry-After": "0"})
    answers += [busy, said("Good day.")]
    async with openai.AsyncOpenAI(
        base_url=f"{runtime.url}/v1", api_key="none", max_retries=1
    ) as client:
        completion = await client.chat.completions.create(model="demo", messages=HELLO)
    assert completion.choices[0].message.content == "Good day."


ANSWERED = {"role": "assistant", "tool_calls": [
    {"id": "a", "type": "function", "function": {"name": "add", "arguments": "{}"}}
]}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"model": "gpt-5"}, "model_not_found", "model"),
        ({"frequency_penalty": 0.5}, "unsupported_parameter", "frequency_penalty"),
        ({"logit_bias": {"7": 1}}, "unsupported_parameter", "logit_bias"),
        ({"reasoning_effort": "huge"}, "invalid_request", "reasoning_effort"),
        ({"extra_body": {"torpor": {"thinking_tokens": 9}}}, "needs_state", None),
        ({"extra_body": {"chat_template_kwargs": {"a": 1}}}, "needs_state", None),
        ({"extra_body": {"torpor": {"history": "template"}}}, "needs_state", None),
        ({"extra_body": {"torpor": {"colour": 1}}}, "invalid_request", "torpor.colour"),
        ({"store": True}, "unsupported_parameter", "store"),
        ({"extra_body": {"colour": "red"}}, "unsupported_parameter", "colour"),
        ({"temperature": 3}, "invalid_request", "temperature"),
        ({"temperature": "1"}, "invalid_request", "temperature"),
        ({"seed": 2**63}, "invalid_request", "seed"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": [{"role": "clown", "content": "x"}]}, "invalid_request", "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "name": "a"}]}, "wrong_message",
         "messages[0].name"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text_only",
         "messages[0].content[0]"),
        ({"messages": [*HELLO, {"role": "tool", "content": "x"}]}, "wrong_message",
         "messages[1].tool_call_id"),
        ({"messages": [*HELLO, ANSWERED, *HELLO]}, "wrong_message", "messages[2]"),
        ({"messages": [{**ANSWERED, "role": "user"}]}, "wrong_message", "messages[0].tool_calls"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "bad_request", None),
        ({"tools": [{"type": "custom"}]}, "invalid_request", "tools[0].type"),
        ({"tool_choice": "required"}, "unknown_tool", None),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "bad_request", "max_tokens"),
        ({"top_logprobs": 1}, "bad_request", "top_logprobs"),
        ({"logprobs": True}, "needs_state", None),
        ({"response_format": {"type": "json_schema"}}, "bad_request",
         "response_format.json_schema"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused_and_named(client, options, code, param):
    with pytest.raises(openai.APIStatusError) as refused:
        await client.chat.completions.create(**{"model": "demo", "messages": HELLO, **options})
    error = refused.value
    assert (error.code, error.param) == (code, param)
    assert error.status_code == (404 if code == "model_not_found" else 400)
    assert error.type == (
        "not_found_error" if code == "model_not_found" else "invalid_request_error"
    )


@pytest.mark.parametrize("name", UNSUPPORTED)
async def test_asking_for_what_is_done_anyway_is_no_error(create, answers, name):
    answers.append(said("Good day."))
    for value in (None, *UNSUPPORTED[name].harmless[:1]):
        if value is not None:
            answers.append(said("Good day."))
        await create(extra_body={name: value})


def test_every_parameter_of_openais_is_read_or_refused():
    known = set(CompletionCreateParamsBase.__annotations__)
    assert known <= ChatRequest.model_fields.keys() | UNSUPPORTED.keys()
    assert UNSUPPORTED.keys() <= known
    assert not UNSUPPORTED.keys() & ChatRequest.model_fields.keys()
