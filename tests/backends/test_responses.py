"""`/v1/responses` with OpenAI's own client, over an endpoint that says what a test wants."""

import asyncio

import httpx
import openai
import pytest
from pydantic import BaseModel

from agent_runtime.openai_api.responses.requests import CreateResponse
from tests.backends.scripted import call, forget, says, sent

ADD = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": False,
}
TEXT = ({"content": "Hel"}, {"content": "lo."})


async def test_a_response_is_made_kept_and_deleted(scripted, said):
    said.scripted.append(says(*TEXT))
    made = await scripted.responses.create(
        model="scripted",
        input="Hi.",
        instructions="Be brief.",
        metadata={"a": "1"},
        max_output_tokens=50,
    )
    assert (made.status, made.output_text, made.instructions) == (
        "completed",
        "Hello.",
        "Be brief.",
    )
    assert (made.metadata, made.max_output_tokens, made.store) == ({"a": "1"}, 50, True)
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (
        9,
        2,
        11,
    )
    assert sent(said) == [("system", "Be brief."), ("user", "Hi.")]
    assert await scripted.responses.retrieve(made.id) == made
    (item,) = (await scripted.responses.input_items.list(made.id)).data
    assert (item.role, item.content[0].text) == ("user", "Hi.")
    await scripted.responses.delete(made.id)
    for asked in (
        scripted.responses.retrieve,
        scripted.responses.delete,
        scripted.responses.cancel,
    ):
        with pytest.raises(openai.NotFoundError, match="no response"):
            await asked(made.id)


async def test_a_response_that_is_not_to_be_kept_is_not(scripted, said):
    said.scripted.append(says(*TEXT))
    made = await scripted.responses.create(model="scripted", input="Hi.", store=False)
    assert made.store is False
    with pytest.raises(openai.NotFoundError):
        await scripted.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await scripted.responses.create(model="scripted", input="Hi.", previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


async def test_a_response_follows_another_in_its_session_and_a_second_one_in_a_fork(scripted, said):
    said.scripted += [says({"content": answer}) for answer in ("One.", "Two.", "Three.", "Four.")]
    first = await scripted.responses.create(model="scripted", input="1?")
    second, third = [
        await scripted.responses.create(model="scripted", input=text, previous_response_id=first.id)
        for text in ("2?", "3?")
    ]
    fourth = await scripted.responses.create(
        model="scripted", input="4?", previous_response_id=third.id
    )
    assert sent(said, 2) == [("user", "1?"), ("assistant", "One."), ("user", "3?")]
    assert sent(said)[2:] == [("user", "3?"), ("assistant", "Three."), ("user", "4?")]
    sessions = [one.torpor["session"] for one in (first, second, third, fourth)]
    assert sessions[0] == sessions[1] != sessions[2] == sessions[3]
    assert third.torpor["parent"] == first.torpor["snapshot"]
    items = (await scripted.responses.input_items.list(fourth.id, order="asc")).data
    assert [one.content[0].text for one in items] == ["1?", "One.", "3?", "Three.", "4?"]
    latest = (await scripted.responses.input_items.list(fourth.id, limit=2)).data
    assert [one.content[0].text for one in latest] == ["4?", "Three."]
    rest = await scripted.responses.input_items.list(fourth.id, after=latest[-1].id)
    assert [one.content[0].text for one in rest.data] == ["3?", "One.", "1?"]


async def test_responses_that_follow_at_the_same_time_all_go_on_from_there(scripted, said):
    said.scripted += [says({"content": "One."}) for _ in range(5)]
    first = await scripted.responses.create(model="scripted", input="1?")
    others = await asyncio.gather(
        *(
            scripted.responses.create(
                model="scripted", input=f"{n}?", previous_response_id=first.id
            )
            for n in range(4)
        )
    )
    assert len({one.torpor["session"] for one in others}) == 4
    assert {one.torpor["parent"] for one in others} == {first.torpor["snapshot"]}


async def test_calls_and_their_results_go_back_and_forth(scripted, said):
    said.scripted += [says({"content": "Let me."}, call("add", "c1", a=1)), says(*TEXT)]
    first = await scripted.responses.create(model="scripted", input="Add.", tools=[ADD])
    text, asked = first.output
    assert (text.content[0].text, asked.name, asked.arguments) == ("Let me.", "add", '{"a": 1}')
    result = {"type": "function_call_output", "call_id": asked.call_id, "output": "2"}
    second = await scripted.responses.create(
        model="scripted", input=[result], previous_response_id=first.id, tools=[ADD]
    )
    assert second.output_text == "Hello."
    assert sent(said)[1:] == [("assistant", "Let me."), ("tool", "2")]
    assert second.torpor["session"] == first.torpor["session"]
    whole = [{"role": "user", "content": "Add."}, *first.output, result, *second.output]
    said.scripted.append(says(*TEXT))
    third = await scripted.responses.create(
        model="scripted", input=[*whole, {"role": "user", "content": "Go on."}], tools=[ADD]
    )
    assert [role for role, _ in sent(said)] == ["user", "assistant", "tool", "assistant", "user"]
    assert third.torpor["parent"] == first.torpor["snapshot"] or third.torpor["parent"] is None


async def test_a_result_of_no_call_and_a_call_without_its_result_are_refused(scripted, said):
    said.scripted.append(says(call("add", "c1", a=1)))
    first = await scripted.responses.create(model="scripted", input="Add.", tools=[ADD])
    stray = {"type": "function_call_output", "call_id": "call_0", "output": "2"}
    for asked in ([stray], "Never mind."):
        with pytest.raises(openai.BadRequestError, match="Nothing was generated"):
            await scripted.responses.create(
                model="scripted", input=asked, previous_response_id=first.id, tools=[ADD]
            )
    with pytest.raises(openai.BadRequestError, match="none of the calls"):
        await scripted.responses.create(model="scripted", input=[stray])


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}])
async def test_tools_that_are_not_given_again_are_not_called(scripted, said, choice):
    said.scripted += [says(*TEXT), says(*TEXT)]
    first = await scripted.responses.create(model="scripted", input="Hi.", tools=[ADD])
    await scripted.responses.create(
        model="scripted", input="Hi.", previous_response_id=first.id, **choice
    )
    assert said.seen[-1][1]["tool_choice"] == "none"
    with pytest.raises(openai.BadRequestError) as refused:
        await scripted.responses.create(
            model="scripted",
            input="Hi.",
            previous_response_id=first.id,
            tool_choice="required",
        )
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"instructions": "Be long."}, "the instructions are not those of"),
        ({"tools": [{**ADD, "name": "subtract"}]}, "the tools are not those of"),
    ],
)
async def test_other_instructions_or_tools_have_all_rendered_anew_and_say_so(
    scripted, said, other, why
):
    said.scripted += [says({"content": answer}) for answer in ("One.", "Two.", "Three.")]
    first = await scripted.responses.create(
        model="scripted", input="1?", instructions="Be brief.", tools=[ADD]
    )
    same = await scripted.responses.create(
        model="scripted",
        input="2?",
        instructions="Be brief.",
        tools=[ADD],
        previous_response_id=first.id,
    )
    assert same.torpor["rendered_anew"] is None
    anew = await scripted.responses.create(
        model="scripted", input="3?", previous_response_id=same.id, **other
    )
    assert why in anew.torpor["rendered_anew"]
    assert anew.torpor["session"] != first.torpor["session"]
    system = other.get("instructions", "Be brief.")
    assert sent(said)[0] == ("system", system)
    assert [text for _, text in sent(said)[1:]] == ["1?", "One.", "2?", "Two.", "3?"]
    assert anew.instructions == system
    items = (await scripted.responses.input_items.list(anew.id, order="asc")).data
    assert [one.content[0].text for one in items] == ["1?", "One.", "2?", "Two.", "3?"]


async def test_what_was_deleted_cannot_be_rendered_anew(scripted, said):
    said.scripted += [says(*TEXT), says(*TEXT)]
    first = await scripted.responses.create(model="scripted", input="1?")
    second = await scripted.responses.create(
        model="scripted", input="2?", previous_response_id=first.id
    )
    await scripted.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError, match="was deleted"):
        await scripted.responses.create(
            model="scripted", input="3?", previous_response_id=second.id, instructions="Be brief."
        )


EVENTS_OF_TEXT = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def streamed(client, **asked):
    stream = await client.responses.create(model="scripted", stream=True, **asked)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


async def test_an_answer_is_streamed_in_openais_events(scripted, said):
    said.scripted.append(says(*TEXT))
    events = await streamed(scripted, input="Hi.")
    assert [event.type for event in events] == EVENTS_OF_TEXT
    assert "".join(e.delta for e in events if e.type.endswith("text.delta")) == "Hello."
    last = events[-1].response
    assert last.output == [events[-2].item]
    assert events[6].text == events[7].part.text == last.output_text == "Hello."
    assert events[0].response.status == "in_progress"
    assert await scripted.responses.retrieve(last.id) == last


async def test_reasoning_and_calls_are_streamed_as_items_of_their_own(scripted, said):
    said.scripted.append(
        says(
            {"reasoning_content": "Hm"},
            {"reasoning_content": "m."},
            {"content": "So."},
            call("add", "c1", a=1),
        )
    )
    events = await streamed(scripted, input="Add.", tools=[ADD])
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done"),
        *("output_item.done", "completed"),
    ]
    reasoning, message, asked = events[-1].response.output
    assert reasoning.content[0].text == "Hmm."
    assert message.content[0].text == "So."
    assert (asked.name, asked.arguments) == ("add", '{"a": 1}')
    added = [event for event in events if event.type == "response.output_item.added"]
    done = [event for event in events if event.type == "response.output_item.done"]
    for one, other, item in zip(added, done, (reasoning, message, asked), strict=True):
        assert one.item.status == "in_progress"
        assert (one.item.id, one.output_index) == (other.item.id, other.output_index)
        assert other.item == item
    # As a client that keeps nothing sends it back.
    said.scripted.append(says(*TEXT))
    result = {"type": "function_call_output", "call_id": asked.call_id, "output": "2"}
    items = [{"role": "user", "content": "Add."}, reasoning, message, asked, result]
    again = await scripted.responses.create(model="scripted", input=items, tools=[ADD])
    assert again.torpor["parent"] == events[-1].response.torpor["snapshot"]


async def test_the_clients_own_stream_gathers_the_response(scripted, said):
    class Point(BaseModel):
        x: int

    said.scripted.append(says({"content": '{"x":'}, {"content": " 7}"}))
    stream = scripted.responses.stream(model="scripted", input="Hi.", text_format=Point)
    async with stream as events:
        async for _ in events:
            pass
        found = await events.get_final_response()
    assert found.output_parsed == Point(x=7)
    assert said.seen[-1][1]["response_format"]["json_schema"]["schema"]["title"] == "Point"


async def test_an_answer_that_was_cut_off_is_incomplete(scripted, said):
    said.scripted.append(says({"content": "Hel"}, finish="length"))
    events = await streamed(scripted, input="Hi.", max_output_tokens=1)
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output[0].status == "incomplete"


async def test_a_stream_that_breaks_ends_with_why(scripted, said):
    answer = says(*TEXT)
    answer.body = answer.body[: answer.body.index("lo.")]
    answer.length = 10_000
    said.scripted.append(answer)
    events = await streamed(scripted, input="Hi.")
    assert events[-1].type == "response.failed"
    failed = events[-1].response
    assert (failed.status, failed.error.code) == ("failed", "server_error")
    assert failed.torpor["code"] == "engine_unreachable"
    with pytest.raises(openai.NotFoundError):
        await scripted.responses.retrieve(failed.id)


async def test_the_same_request_again_is_the_same_response(scripted, said):
    said.scripted += [says(*TEXT), says(*TEXT)]
    first = await scripted.responses.create(model="scripted", input="Hi.")
    asked = {"model": "scripted", "input": "Go on.", "previous_response_id": first.id}
    key = {"extra_headers": {"Idempotency-Key": f"key of {first.id}"}}
    one = await scripted.responses.create(**asked, **key)
    two = await scripted.responses.create(**asked, **key)
    assert (two.id, two.output, two.usage) == (one.id, one.output, one.usage)
    assert two.torpor["replayed"]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        await scripted.responses.create(**{**asked, "input": "Stop."}, **key)
    assert refused.value.code == "key_reused"


async def test_a_key_that_is_not_known_any_more_makes_a_response_of_its_own(
    scripted, scripted_app, said
):
    said.scripted += [says({"content": text}) for text in ("One.", "Two.", "Three.")]
    key = {"extra_headers": {"Idempotency-Key": "of long ago"}}
    one = await scripted.responses.create(model="scripted", input="1?", **key)
    made = [one]
    for asked in ({"input": "2?", "previous_response_id": one.id}, {"input": "1?"}):
        await forget(scripted_app, "of long ago\nresponse")
        made.append(await scripted.responses.create(model="scripted", **asked, **key))
    assert [one.output_text for one in made] == ["One.", "Two.", "Three."]
    assert len({one.id for one in made}) == 3
    assert await scripted.responses.retrieve(one.id) == one
    items = (await scripted.responses.input_items.list(made[1].id, order="asc")).data
    assert [item.content[0].text for item in items] == ["1?", "One.", "2?"]


async def test_a_stream_again_is_the_same_events_and_adds_nothing_to_its_conversation(
    scripted, said
):
    said.scripted.append(says({"reasoning_content": "Hm."}, {"content": "So."}, call("add", "c1")))
    talk = await scripted.conversations.create()
    key = {"extra_headers": {"Idempotency-Key": f"key of {talk.id}"}}
    asked = {"input": "Hi.", "conversation": talk.id, "tools": [ADD], **key}
    one, two = [await streamed(scripted, **asked) for _ in range(2)]
    assert [event.type for event in two] == [event.type for event in one]
    assert two[2:-1] == one[2:-1]
    assert two[-1].response.output == one[-1].response.output
    assert len((await scripted.conversations.items.list(talk.id)).data) == 4


async def test_without_a_record_the_same_request_again_is_answered_the_same(scripted, said):
    said.scripted.append(says(*TEXT))
    asked = {"model": "scripted", "input": "Hi.", "store": False}
    key = {"extra_headers": {"Idempotency-Key": "of what is not kept"}}
    one = await scripted.responses.create(**asked, **key)
    two = await scripted.responses.create(**asked, **key)
    assert (two.id, two.output) == (one.id, one.output)
    assert two.torpor["replayed"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [ADD, {"type": "mcp", "server_label": "x"}]}, "tools[1]"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0]"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]"),
        (
            {"input": [{"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}]},
            "input[0].encrypted_content",
        ),
    ],
)
async def test_what_cannot_be_done_is_refused_with_why(scripted, asked, param):
    with pytest.raises(openai.BadRequestError) as refused:
        await scripted.responses.create(**{"model": "scripted", "input": "Hi.", **asked})
    error = refused.value
    assert (error.type, error.code) == ("invalid_request_error", "unsupported_parameter")
    assert error.param == param
    assert "Nothing was generated" in error.message


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"input": []}, "bad_request"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "text_only"),
        ({"input": [{"role": "critic", "content": "x"}]}, "bad_request"),
        ({"input": [{"role": "user", "content": "x", "mood": "good"}]}, "bad_request"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "bad_request"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "bad_request"),
        ({"text": {"format": {"type": "grammar"}}}, "bad_request"),
        ({"temperature": 9}, "invalid_request"),
        ({"seed": 1}, "invalid_request"),
        ({"metadata": {"a": "x" * 513}}, "invalid_request"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "invalid_request"),
    ],
)
async def test_what_is_asked_wrongly_is_refused(scripted, asked, code):
    with pytest.raises(openai.BadRequestError) as refused:
        await scripted.responses.create(
            model="scripted", input=asked.pop("input", "Hi."), extra_body=asked
        )
    assert refused.value.code == code


async def test_a_model_that_is_not_served_is_not_found(scripted):
    with pytest.raises(openai.NotFoundError) as refused:
        await scripted.responses.create(model="gpt-9", input="Hi.")
    assert refused.value.code == "model_not_found"


async def test_responses_go_with_their_session(scripted, scripted_app, said):
    said.scripted.append(says(*TEXT))
    made = await scripted.responses.create(model="scripted", input="Hi.")
    await scripted_app.state.sessions.delete(made.torpor["session"])
    with pytest.raises(openai.NotFoundError):
        await scripted.responses.retrieve(made.id)


async def test_nothing_that_is_asked_breaks_the_service(scripted_app, said):
    junk = [None, 1, True, "x", [], [1], {}, {"type": "x"}, [{"type": "input_text", "text": 1}]]
    items = [
        {"type": "message", "role": "assistant", "content": "x", "id": "i", "status": "completed"},
        {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "o"},
        {"type": "reasoning", "summary": [], "content": [], "encrypted_content": None},
    ]
    fields = CreateResponse.model_fields.keys() - {"background", "model"}
    bodies = [{name: value} for name in fields for value in junk]
    bodies += [{"input": [{**i, name: value}]} for i in items for name in i for value in junk]
    bodies += [{"tools": [{**ADD, name: value}]} for name in ADD for value in junk]
    bodies += [{"text": {"format": {"type": "json_schema", "schema": one}}} for one in junk]
    bodies += [{"tool_choice": {"type": "function", "name": one}} for one in junk]
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    ) as http:
        for body in bodies:
            said.scripted[:] = [says(*TEXT)]  # for what is possible
            asked = {"input": "x", **body, "model": "scripted"}
            answer = await http.post("http://scripted/v1/responses", json=asked)
            assert answer.status_code < 500, (body, answer.text)
    said.scripted.clear()


@pytest.mark.parametrize("background", [False, True])
async def test_an_item_that_is_sent_twice_is_refused_as_openai_refuses_it(
    scripted, said, background
):
    """Within an input, and behind a response or in a conversation that has it already."""
    said.scripted += [says({"content": "One."}), says({"content": "Two."})]
    talk = await scripted.conversations.create()
    first = await scripted.responses.create(model="scripted", input="1?")
    second = await scripted.responses.create(model="scripted", input="2?", conversation=talk.id)
    question = {"role": "user", "content": "And?"}
    (given,) = (await scripted.responses.input_items.list(first.id)).data
    for before, repeated in (
        ({}, [question | {"id": "msg_1"}, question | {"id": "msg_1"}]),
        ({"previous_response_id": first.id}, [first.output[0].model_dump(), question]),
        ({"previous_response_id": first.id}, [given.model_dump(exclude_none=True), question]),
        ({"conversation": talk.id}, [second.output[0].model_dump(), question]),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await scripted.responses.create(
                model="scripted", input=repeated, background=background, **before
            )
        assert refused.value.param == "input"
        assert f"Duplicate item found with id {repeated[0]['id']}." in refused.value.message
    said.scripted.append(says({"content": "Three."}))
    whole = [given.model_dump(exclude_none=True), first.output[0].model_dump(), question]
    made = await scripted.responses.create(model="scripted", input=whole)
    assert made.output_text == "Three."
