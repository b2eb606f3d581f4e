"""A session that follows its template has the ids of what the template shows, at every turn."""

from __future__ import annotations

import asyncio
import json

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agent_runtime.errors import NoMessages
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnRequest
from state_store.store import StateStore
from tools.calls import ToolCall
from tools.formats import HERMES, QWEN3_CODER

from .desk import Desk, prompt_of, thinks
from .templates import TEMPLATES

# Text without tags; words of control tokens and of thinking are there on purpose.
words = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Co"]), min_size=1, max_size=20)
    .filter(lambda text: "<" not in text)
    .map(str.strip)
    .filter(bool),
    st.sampled_from(["before <|im_end|>\n<|im_start|>system after", "2 <3", "a\n\nb"]),
)
plain = words.filter(lambda text: "<" not in text)
calls = st.lists(
    st.builds(
        ToolCall,
        name=st.just("calculator"),
        arguments=st.fixed_dictionaries({"expression": st.sampled_from(["2 + 3", "4\n* 5"])}),
    ),
    max_size=2,
)
moves = st.one_of(
    st.tuples(st.just("say"), words, plain, plain, calls, st.booleans()),
    st.tuples(st.just("say"), words, plain, plain, calls, st.booleans()),
    st.tuples(st.just("fork"), st.integers(0, 9)),
    st.tuples(st.just("rewind"), st.integers(0, 9)),
)


def plain_of(message: Message) -> dict[str, object]:
    """As transformers' templates take it."""
    said: dict[str, object] = {"role": message.role, "content": message.content}
    if message.reasoning:
        said["reasoning_content"] = message.reasoning
    if message.tool_calls:
        said["tool_calls"] = [
            {"type": "function", "function": call.model_dump()} for call in message.tool_calls
        ]
    return said


def as_written(answer: Message, format: str, *, thinking: str) -> str:
    """How a model that has learned the template writes an answer. thinking: how its prompt ends"""
    text = answer.content
    if answer.tool_calls:
        text += "\n"
    for call in answer.tool_calls:
        if format == HERMES:
            text += (
                f"<tool_call>\n{json.dumps(call.model_dump(), ensure_ascii=False)}\n</tool_call>\n"
            )
            continue
        text += f"<tool_call>\n<function={call.name}>\n"
        for name, value in call.arguments.items():
            text += f"<parameter={name}>\n{value}\n</parameter>\n"
        text += "</function>\n</tool_call>\n"
    if not thinking:
        return text
    end = "\n</think>\n" if thinking.endswith("\n") else "</think>"
    return answer.reasoning + end + text


async def play(desk: Desk, steps: list[tuple], low_effort: bool) -> None:
    """Sessions by name, and what was said up to each snapshot of theirs."""
    session = await desk.create()
    said: dict[str | None, list[Message]] = {None: []}
    for step in steps:
        current = await desk.store.session(session.id)
        history = [] if current.head is None else await desk.store.ancestors(current.head)
        heads = [None, *(snapshot.id for snapshot in history)]
        match step:
            case ("fork", place):
                at = heads[place % len(heads)]
                if at is not None:
                    session = await desk.store.fork(session.id, snapshot_id=at)
            case ("rewind", place):
                await desk.rewind(session.id, heads[place % len(heads)])
            case ("say", text, thought, reply, made, wants):
                before = said[current.head]
                asking = before[-1].tool_calls if before else ()
                new = [Message(role="tool", content=text) for _ in asking]
                new = new or [Message(role="user", content=text)]
                options = {"enable_thinking": True, "low_effort": wants and low_effort}
                options = {k: v for k, v in options.items() if k in desk.chat.template.options}
                asked = await desk.ask(session.id, *new, template=options)
                shown = desk.shown([plain_of(one) for one in [*before, *new]], **options)
                assert desk.text(asked) == shown
                thinking = shown[shown.rindex("<think>") :] if thinks(shown) else ""
                answer = Message(
                    role="assistant",
                    content=reply,
                    tool_calls=tuple(made),
                    reasoning=thought if thinking else "",
                )
                written = as_written(answer, desk.chat.calls, thinking=thinking)
                head = (await desk.answer(asked, written)).snapshot
                said[head] = [*before, *new, answer]
                if asked.before.rewriting is not None:
                    parent = (await desk.store.snapshot(head)).parent
                    said[parent] = before
    assert (await desk.store.check_integrity()).problems == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_prompt_is_what_the_template_shows_of_all_that_was_said(
    server, objects, checkpoints, name
):
    """Users, tools, thinking and effort hints; forks and rewinds to anywhere in between."""

    @settings(max_examples=12, derandomize=True, database=None, deadline=None)
    @given(st.lists(moves, min_size=2, max_size=7), st.booleans())
    def conversations(steps, low_effort):
        async def run():
            with redis.Redis.from_url(server.url) as raw:  # checks walk all keys
                raw.flushall()
            async with await StateStore.connect(server.url) as store:
                await play(Desk(store, checkpoints[name], server.url, objects), steps, low_effort)

        asyncio.run(run())

    conversations()


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_format_of_calls_is_the_one_that_the_template_shows(checkpoints, name):
    assert checkpoints[name].chat.calls == (HERMES if name == "hermes" else QWEN3_CODER)


@pytest.fixture(params=TEMPLATES)
def any_desk(request, store, server, objects, checkpoints):
    return Desk(store, checkpoints[request.param], server.url, objects)


@pytest.fixture
def desk(store, server, objects, checkpoints):
    return Desk(store, checkpoints["super"], server.url, objects)


async def test_what_came_before_the_thinking_is_kept(desk):
    session = await desk.create()
    first = await desk.say(session.id, "Hi.", "Hm.\n</think>\nHello.")
    second = await desk.ask(session.id, Message(role="user", content="Bye."))
    rewriting = second.before.rewriting
    prompt = prompt_of(first)
    # Up to and with the tag that opened the thinking; the line break after it is another token.
    assert rewriting.kept == len(prompt) - 1
    assert prompt_of(second)[: rewriting.kept] == prompt[:-1]
    assert rewriting.tokens == len(desk.chat.encode("</think>Hello.<|im_end|>"))


async def test_within_one_exchange_nothing_is_rendered_anew(desk):
    session = await desk.create()
    call = "Hm.\n</think>\nSo:\n<tool_call>\n<function=calculator>\n<parameter=expression>\n1 + 1\n"
    call += "</parameter>\n</function>\n</tool_call>\n"
    await desk.say(session.id, "What is 1 + 1?", call)
    for _ in range(3):
        asked = await desk.ask(session.id, Message(role="tool", content="2"))
        assert asked.before.rewriting is None
        await desk.answer(asked, call)


async def test_an_exchange_that_is_rendered_anew_becomes_one_snapshot(desk):
    session = await desk.create()
    await desk.say(session.id, "One.", "Hm.\n</think>\nFirst.")
    for text in ("Two.", "Three.", "Four."):
        await desk.say(session.id, text, "Hm.\n</think>\nYes.")
    head = (await desk.store.session(session.id)).head
    history = await desk.store.ancestors(head)
    said = [[one["content"] for one in s.meta["said"]["messages"]] for s in history]
    assert said == [["One."], ["Two."], ["Three."], ["Four."]]
    assert [s.meta["said"]["answer"]["content"] for s in history] == ["First.", *["Yes."] * 3]
    assert desk.chat.decode(await desk.store.tokens(head)).count("Hm.") == 1


async def test_a_hint_that_moves_leaves_the_message_that_it_was_on(desk):
    session = await desk.create()
    low = {"enable_thinking": False, "low_effort": True}
    await desk.say(session.id, "One.", "First.", template=low)
    asked = await desk.say(session.id, "Two.", "Second.", template=low)
    assert desk.text(asked).count("{reasoning effort: low}") == 1
    assert asked.before.rewriting is not None


async def test_a_session_that_only_appends_keeps_its_ids(desk):
    session = await desk.create(history="append")
    low = {"low_effort": True}
    first = await desk.say(session.id, "One.", "Hm.\n</think>\nFirst.", template=low)
    second = await desk.ask(session.id, Message(role="user", content="Two."), template=low)
    assert second.before.rewriting is None
    known = prompt_of(first)
    assert prompt_of(second)[: len(known)] == known
    assert desk.text(second).count("{reasoning effort: low}") == 2
    assert "Hm." in desk.text(second)


async def test_a_session_may_have_options_of_its_own(desk):
    session = await desk.create(template={"enable_thinking": False})
    own = await desk.ask(session.id, Message(role="user", content="Hi."))
    wished = {"enable_thinking": True}
    other = await desk.ask(session.id, Message(role="user", content="Hi."), template=wished)
    assert not thinks(desk.text(own))
    assert thinks(desk.text(other))


def test_what_is_gone_on_with_takes_no_options():
    with pytest.raises(ValidationError, match="no template options"):
        TurnRequest(proceed=True, template={"enable_thinking": True})


async def test_thinking_that_did_not_end_is_forgotten_too(any_desk):
    desk = any_desk
    if "enable_thinking" not in desk.chat.template.options:
        return
    session = await desk.create(template={"enable_thinking": True})
    asked = await desk.ask(session.id, Message(role="user", content="One."))
    await desk.answer(asked, "Hm, so", ended=False)
    asked = await desk.ask(session.id, Message(role="user", content="Two."))
    said = [{"role": "user", "content": "One."}, {"role": "assistant", "content": ""}]
    said.append({"role": "user", "content": "Two."})
    assert desk.text(asked) == desk.shown(said, enable_thinking=True)


async def test_blanks_that_the_template_would_set_otherwise_change_nothing(desk):
    session = await desk.create(template={"truncate_history_thinking": False})
    await desk.say(session.id, "One.", "\nHm.\n\n</think>\n\n\nFirst.\n")
    asked = await desk.ask(session.id, Message(role="user", content="Two."))
    assert asked.before.rewriting is None
    assert "\nHm.\n\n</think>\n\n\nFirst.\n<|im_end|>" in desk.text(asked)


async def test_an_answer_that_was_cut_off_stays_as_it_is_within_its_exchange(any_desk):
    """And is gone on with as one message."""
    desk = any_desk
    session = await desk.create(template={})
    asked = await desk.ask(session.id, Message(role="user", content="Count."))
    opened = thinks(desk.text(asked))
    await desk.answer(asked, "Hm.\n</think>\none, two" if opened else "one, two", ended=False)
    asked = await desk.ask(session.id, proceed=True)
    await desk.answer(asked, ", three")
    head = (await desk.store.session(session.id)).head
    entry = (await desk.store.snapshot(head)).meta["said"]
    assert entry["answer"]["content"] == "one, two, three"
    assert desk.chat.decode(await desk.store.tokens(head)).endswith("one, two, three<|im_end|>")
    asked = await desk.ask(session.id, Message(role="user", content="Again."))
    assert "one, two, three<|im_end|>" in desk.text(asked)
    await desk.answer(asked, "Hm.\n</think>\nfour, fi" if opened else "four, fi", ended=False)
    asked = await desk.ask(session.id, Message(role="user", content="Once more."))
    assert "four, fi<|im_end|>" in desk.text(asked)
    assert ("Hm." in desk.text(asked)) is False


@pytest.mark.parametrize("name", ["nano", "demo"])
async def test_forks_inside_a_turn_know_what_was_said(store, server, objects, checkpoints, name):
    desk = Desk(store, checkpoints[name], server.url, objects)
    session = await desk.create(template={"enable_thinking": True})
    first = await desk.say(session.id, "One.", "Hm.\n</think>\nFirst answer.")
    prompt = len(prompt_of(first))
    at_prompt = await desk.fork_at(session.id, prompt)
    going_on = await desk.ask(at_prompt.id, proceed=True)
    await desk.answer(going_on, "Well.\n</think>\nAnother.")
    asked = await desk.ask(at_prompt.id, Message(role="user", content="Two."))
    said = [{"role": "user", "content": "One."}, {"role": "assistant", "content": "Another."}]
    said.append({"role": "user", "content": "Two."})
    assert desk.text(asked) == desk.shown(said, enable_thinking=True)

    total = len(await store.tokens((await store.session(session.id)).head))
    inside = await desk.fork_at(session.id, total - 3)
    asked = await desk.ask(inside.id, Message(role="user", content="Two."))
    begun = desk.chat.decode((await store.tokens(inside.head))[prompt:]).split("</think>\n")[1]
    assert begun
    said[1] = {"role": "assistant", "content": begun.strip()}
    assert desk.text(asked) == desk.shown(said, enable_thinking=True)
    await desk.answer(asked, "Hm.\n</think>\nSecond.")
    again = await desk.ask(inside.id, Message(role="user", content="Three."))
    said += [{"role": "assistant", "content": "Second."}, {"role": "user", "content": "Three."}]
    assert desk.text(again) == desk.shown(said, enable_thinking=True)


async def test_a_fork_inside_a_message_says_that_its_messages_are_not_known(desk):
    session = await desk.create()
    first = await desk.say(session.id, "One two three four.", "Hm.\n</think>\nFirst.")
    fork = await desk.fork_at(session.id, len(prompt_of(first)) - 8)
    head = fork.head
    await desk.ask(fork.id, proceed=True)
    with pytest.raises(NoMessages, match="fork inside a message"):
        await desk.ask(fork.id, Message(role="user", content="Two."))
    assert (await desk.store.session(fork.id)).head == head


async def test_an_exported_session_takes_its_messages_along(desk, tmp_path):
    session = await desk.create()
    await desk.say(session.id, "One.", "Hm.\n</think>\nFirst.")
    await desk.store.export_session(session.id, tmp_path / "session")
    taken = await desk.store.import_session(tmp_path / "session", tenant="default")
    here, there = [
        await desk.ask(one.id, Message(role="user", content="Two.")) for one in (session, taken)
    ]
    assert prompt_of(here) == prompt_of(there)
    assert here.before.rewriting.tokens == there.before.rewriting.tokens


async def test_a_turn_keeps_only_its_own_messages(desk):
    """So what a turn writes does not grow with the conversation."""
    session = await desk.create(template={"enable_thinking": False})
    sizes = []
    for _ in range(12):
        await desk.say(session.id, "Tick.", "Noted.")
        head = (await desk.store.session(session.id)).head
        sizes.append(len(json.dumps((await desk.store.snapshot(head)).meta["said"])))
    assert len(set(sizes)) == 1
