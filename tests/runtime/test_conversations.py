"""Clients that send their whole history each time land on the state that it led to."""

import asyncio

import pytest

from agent_runtime.demo.script import SYSTEM
from agent_runtime.sdk import ApiError
from agent_runtime.wire.messages import Message
from tests.runtime.talk import HISTORY, PAGE


def user(text):
    return Message(role="user", content=text)


def answer(result):
    return Message(role="assistant", content=result.text, tool_calls=tuple(result.tool_calls))


@pytest.fixture
async def converse(torpor, registry):
    """Answers a conversation; the sessions it makes are deleted afterwards."""
    made = set()

    async def converse(said, *, system=SYSTEM, **options):
        messages = [Message(role="system", content=system), *said]
        result = await torpor.converse(
            messages, tools=registry.specs(), **{"max_tokens": 48, **options}
        )
        made.add(result.session_id)
        return result

    yield converse
    for session_id in made:
        await torpor.delete(session_id)


async def talked(converse, texts, **options):
    """A conversation over `texts` with its answers, and the results."""
    said, results = [], []
    for text in texts:
        said.append(user(text))
        results.append(await converse(said, **options))
        said.append(answer(results[-1]))
    return said, results


async def test_a_conversation_that_grows_is_one_session_and_computes_only_what_is_new(
    torpor, registry, converse
):
    _, results = await talked(converse, HISTORY)
    assert len({result.session_id for result in results}) == 1
    assert all(result.usage.recomputed_tokens <= PAGE for result in results[1:])
    session = await torpor.create(system=SYSTEM, tools=registry.specs())
    for text, result in zip(HISTORY, results, strict=True):
        assert (await torpor.turn(session.id, text, max_tokens=48)).token_ids == result.token_ids
    await torpor.delete(session.id)


async def test_an_edit_becomes_a_fork_where_it_was_made(torpor, converse):
    said, results = await talked(converse, HISTORY[:3])
    edited = [*said[:4], user("What is 12 + 30?")]
    other = await converse(edited)
    assert other.session_id != results[0].session_id
    assert other.parent == results[1].snapshot
    assert other.usage.recomputed_tokens <= PAGE
    assert (await torpor.get(other.session_id)).forked_from == results[0].session_id
    again = await converse([*said, user("Tick.")])  # the original goes on
    assert again.session_id == results[0].session_id


async def test_a_retry_is_a_branch_beside_the_first_answer(converse):
    said, results = await talked(converse, HISTORY[:2])
    retried = await converse(said[:3])
    assert retried.parent == results[1].parent
    assert retried.session_id != results[1].session_id
    assert retried.token_ids == results[1].token_ids


async def test_answers_at_the_same_time_do_not_wait_for_each_other(converse):
    said, _ = await talked(converse, HISTORY[:1])
    ways = [[*said, user(text)] for text in ("What is 12 + 30?", "What is 5 + 6?", "Tick.")]
    results = await asyncio.gather(*map(converse, ways))
    assert len({result.session_id for result in results}) == 3
    assert all(result.usage.recomputed_tokens <= PAGE for result in results)


async def test_tool_calls_and_their_results_are_known_again(registry, converse):
    said = [user("What is 318 + 264?")]
    first = await converse(said)
    (call,) = first.tool_calls
    outcome = await registry.call(call.name, call.arguments)
    said += [answer(first), Message(role="tool", content=outcome.text)]
    second = await converse(said)
    assert second.session_id == first.session_id
    assert second.text == "318 + 264 = 582."


async def test_what_was_said_elsewhere_is_read_and_then_known(converse):
    said = [user("Hello."), Message(role="assistant", content="Good day."), user("Tick.")]
    first = await converse(said)
    assert first.parent is None
    second = await converse([*said, answer(first), user("Tick.")])
    assert second.session_id == first.session_id
    assert second.usage.recomputed_tokens <= PAGE


async def test_another_system_text_is_another_conversation(converse):
    said, results = await talked(converse, HISTORY[:1])
    other = await converse([*said, user("Tick.")], system=SYSTEM + " Be brief.")
    assert other.session_id != results[0].session_id
    assert other.parent is None


async def test_a_conversation_whose_session_was_deleted_is_read_anew(torpor, registry, converse):
    messages = [Message(role="system", content=SYSTEM), user(HISTORY[0])]
    first = await torpor.converse(messages, tools=registry.specs(), max_tokens=48)
    await torpor.delete(first.session_id)
    second = await converse([user(HISTORY[0]), answer(first), user("Tick.")])
    assert second.parent is None
    assert second.session_id != first.session_id


@pytest.mark.parametrize("said", [[], [user("Hi."), Message(role="assistant", content="Hi.")]])
async def test_a_conversation_must_ask_something(converse, said):
    with pytest.raises(ApiError) as refused:
        await converse(said)
    assert refused.value.code == "bad_request"


async def test_a_system_text_in_the_middle_is_refused(converse):
    with pytest.raises(ApiError, match="cannot be appended"):
        await converse([user("Hi."), Message(role="system", content="x"), user("Hi.")])
