"""LangGraph's time travel carries the model's state along."""

import secrets

import pytest

from agent_runtime.errors import BadRequest, BadVerdict, CallsWaiting
from agent_runtime.graph import STATE_TYPES, answer, ask, build_agent, waiting
from agent_runtime.saver import TorporSaver
from tests.runtime.talk import PAGE


@pytest.fixture
async def saver(stage):
    prefix = f"t{secrets.token_hex(4)}"
    async with await TorporSaver.connect(
        stage.store.url, prefix=prefix, types=STATE_TYPES
    ) as opened:
        yield opened


@pytest.fixture
def agent(torpor, registry, saver):
    return build_agent(torpor, registry, checkpointer=saver, max_tokens=96)


def turns_of(steps):
    return [step.turn for step in steps if step.turn is not None]


async def test_a_thread_goes_on_with_its_own_session(agent, session):
    await ask(agent, session, "What is 12 + 30?", thread="a")
    again = await ask(agent, None, "What is 318 + 264?", thread="a")
    assert [step.kind for step in again] == ["model", "tool", "model"]
    assert again[2].text == "318 + 264 = 582."
    assert {turn.session_id for turn in turns_of(again)} == {session.id}


async def test_every_earlier_checkpoint_continues_from_the_state_that_it_had(
    torpor, agent, session
):
    for text in ("What is 12 + 30?", "What is 5 + 6?"):
        await ask(agent, session if text.startswith("What is 12") else None, text, thread="a")
    config = {"configurable": {"thread_id": "a"}}
    past = [state async for state in agent.aget_state_history(config)]
    travelled = []
    for state in past:
        if state.next != ("model",):
            continue
        final = await agent.ainvoke(None, state.config)
        first = final["steps"][len(state.values["steps"])].turn
        travelled.append(first)
        assert first.usage.recomputed_tokens <= PAGE
        assert first.parent == (state.values["head"] or None)
        original = next(
            step.turn
            for newer in past
            for step in newer.values.get("steps", ())
            if step.turn is not None and step.turn.parent == first.parent
        )
        assert first.token_ids == original.token_ids
    assert len(travelled) == 4
    forks = {turn.session_id for turn in travelled} - {session.id}
    for fork in forks:
        await torpor.delete(fork)
    assert (await torpor.get(session.id)).head == past[0].values["head"]


async def test_a_changed_message_makes_a_branch_and_leaves_the_original(torpor, agent, session):
    await ask(agent, session, "What is 12 + 30?", thread="a")
    before = await torpor.get(session.id)
    config = {"configurable": {"thread_id": "a"}}
    past = [state async for state in agent.aget_state_history(config)]
    after_first = next(state for state in past if state.next == ("tools",))
    steps = await ask(agent, None, "What is 5 + 6?", thread=after_first.config)
    (branch,) = {turn.session_id for turn in turns_of(steps)}
    assert branch != session.id
    assert (await torpor.get(branch)).forked_from == session.id
    assert (await torpor.get(session.id)).head == before.head
    await torpor.delete(branch)


async def test_a_copied_thread_takes_a_branch_of_its_own(torpor, agent, saver, session):
    await ask(agent, session, "What is 12 + 30?", thread="a")
    await saver.acopy_thread("a", "b")
    mine = await ask(agent, None, "What is 5 + 6?", thread="a")
    other = await ask(agent, None, "What is 5 + 6?", thread="b")
    assert mine[0].turn.session_id == session.id
    assert other[0].turn.session_id != session.id
    assert other[0].turn.token_ids == mine[0].turn.token_ids
    assert other[0].turn.usage.recomputed_tokens <= PAGE
    await torpor.delete(other[0].turn.session_id)


@pytest.mark.parametrize("verdict", [True, False, [True]])
async def test_a_person_is_asked_before_a_tool_runs(torpor, registry, saver, session, verdict):
    careful = build_agent(
        torpor, registry, checkpointer=saver, ask_first={"calculator"}, max_tokens=96
    )
    steps = await ask(careful, session, "What is 318 + 264?", thread="a")
    assert [step.kind for step in steps] == ["model"]
    (call,) = await waiting(careful, thread="a")
    assert call == {"name": "calculator", "arguments": {"expression": "318 + 264"}}
    result, _ = await answer(careful, verdict, thread="a")
    assert result.text == ("582" if verdict else "A person has refused this call of calculator.")
    assert await waiting(careful, thread="a") == []


async def test_a_verdict_that_fits_no_call_is_an_error_and_can_be_given_again(
    torpor, registry, saver, session
):
    careful = build_agent(
        torpor, registry, checkpointer=saver, ask_first={"calculator"}, max_tokens=96
    )
    await ask(careful, session, "What is 318 + 264?", thread="a")
    with pytest.raises(BadVerdict, match="does not answer 1 calls"):
        await answer(careful, [True, False], thread="a")
    result, final = await answer(careful, True, thread="a")
    assert (result.text, final.text) == ("582", "318 + 264 = 582.")
    with pytest.raises(BadVerdict, match="0 calls"):
        await answer(careful, True, thread="a")


async def test_a_message_does_not_drop_calls_that_a_person_is_asked_about(
    torpor, registry, saver, session
):
    careful = build_agent(
        torpor, registry, checkpointer=saver, ask_first={"calculator"}, max_tokens=96
    )
    await ask(careful, session, "What is 318 + 264?", thread="a")
    for given in (None, session.id, await torpor.get(session.id)):
        with pytest.raises(CallsWaiting, match="waits for a person's leave to make 1 calls"):
            await ask(careful, given, "Thanks.", thread="a")
    _, final = await answer(careful, True, thread="a")
    assert final.text == "318 + 264 = 582."
    assert (await ask(careful, None, "Thanks.", thread="a"))[-1].text


@pytest.mark.parametrize("thread", ["nothing", {"configurable": {"thread_id": "nothing"}}, None])
async def test_a_thread_without_a_session_is_a_clear_error(agent, thread):
    with pytest.raises(BadRequest, match=r"has no session.*Nothing was sent"):
        await ask(agent, None, "Hello.", thread=thread)
