"""Sessions that follow their template, on a real engine: only thinking is forgotten."""

import re
import secrets

import httpx
import pytest
from redis import asyncio as redis

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.sdk import ApiError
from engine.demo_model import dialogues
from state_store.layout import ObjectNames

from .talk import HISTORY, PAGE, TEXT

THINKING = {"enable_thinking": True}
ANSWER = {"max_tokens": 24, "template": THINKING}


@pytest.fixture(scope="module")
def chat(stage):
    return ChatFormat(stage.model)


@pytest.fixture
async def session(torpor, registry):
    """One that shares no page with another test's."""
    system = f"You are {secrets.token_hex(8)}."
    created = await torpor.create(system=system, tools=registry.specs(), history="template")
    yield created
    await torpor.delete(created.id)


async def rewritten_turns(url):
    async with httpx.AsyncClient() as client:
        page = (await client.get(f"{url}/metrics")).text
    return float(re.search(r"^torpor_turns_rewritten_total (\S+)$", page, re.MULTILINE)[1])


async def thought(torpor, session_id, text):
    """A turn that thinks: on its own the demo model ends its thinking at once."""
    for seed in range(32):
        turn = await torpor.turn(
            session_id, text, max_tokens=8, template=THINKING, temperature=2.0, seed=seed
        )
        if turn.reasoning:
            return turn
        await torpor.rewind(session_id, turns=1)
    pytest.fail("no seed makes the model think")


async def test_a_turn_goes_on_as_a_fresh_session_that_is_shown_the_same(
    stage, torpor, store, session, chat, continuation
):
    """From the state at the end of the prompt before the first changed token."""
    before = await rewritten_turns(stage.runtime.url)
    said = first = await thought(torpor, session.id, dialogues.read(TEXT).user)
    assert first.usage.rewritten_tokens == 0
    fork = await torpor.fork(session.id)
    for text in (HISTORY[0], HISTORY[2]):
        turn = await torpor.turn(session.id, text, **ANSWER)
        usage = turn.usage
        ids = list(await store.tokens(turn.snapshot))
        prompt, answer = ids[: usage.prompt_tokens], ids[usage.prompt_tokens :]
        assert answer == turn.token_ids
        assert answer == await continuation(prompt, len(answer))
        # What was thought is not there, and the thinking that is to come is opened.
        thought_before = re.escape(said.reasoning.strip()) + r"\s*(</think>|<\|im_end\|>)"
        assert not re.search(thought_before, chat.decode(prompt))
        assert chat.decode(prompt).count("<think>\n") == 1
        kept = (said.usage.prompt_tokens - 1) // PAGE * PAGE
        assert usage.boundary_tokens == kept > 0
        assert usage.reused_tokens >= kept
        assert usage.rewritten_tokens > 0
        assert "rendered anew" in usage.recompute_reason
        await torpor.rewind(session.id, turns=1)
        said = await thought(torpor, session.id, text)
    assert await rewritten_turns(stage.runtime.url) == before + 2
    assert len(await torpor.snapshots(session.id)) == 3
    # The fork has what its origin forgot.
    assert list(await store.tokens(fork.head))[-len(first.token_ids) :] == first.token_ids
    await torpor.delete(fork.id)
    assert (await store.check_integrity()).problems == []


async def test_a_turn_without_thinking_computes_nothing_again(torpor, session):
    for text in HISTORY[:3]:
        turn = await torpor.turn(session.id, text, max_tokens=24)
        assert turn.usage.rewritten_tokens == 0
        assert turn.usage.recomputed_tokens <= PAGE


async def test_an_option_that_the_template_does_not_know_is_refused(torpor, session):
    with pytest.raises(ApiError, match=r"'reasoning_effort'.*enable_thinking") as refused:
        await torpor.turn(session.id, "Hi.", template={"reasoning_effort": "low"})
    assert (refused.value.code, refused.value.status) == ("unknown_option", 400)
    with pytest.raises(ApiError) as refused:
        await torpor.create(template={"reasoning_effort": "low"})
    assert refused.value.code == "unknown_option"
    assert (await torpor.get(session.id)).head is None


async def test_options_of_a_session_are_those_of_its_turns(torpor, store, chat):
    created = await torpor.create(template=THINKING)
    assert created.history == "append"
    for options, end in (({}, "<think>\n"), ({"enable_thinking": False}, "<think></think>")):
        turn = await torpor.turn(created.id, "Tick.", max_tokens=4, template=options)
        ids = list(await store.tokens(turn.snapshot))[: turn.usage.prompt_tokens]
        assert chat.decode(ids).endswith(end)
    await torpor.delete(created.id)


async def test_a_history_goes_back_to_before_it_was_rendered_anew(torpor, store, session):
    first = await thought(torpor, session.id, HISTORY[0])
    second = await torpor.turn(session.id, HISTORY[2], **ANSWER)
    assert second.parent != first.snapshot
    back = await torpor.rewind(session.id, turns=1)
    assert back.head == second.parent
    again = await torpor.turn(session.id, HISTORY[2], **ANSWER)
    assert (again.parent, again.token_ids) == (second.parent, second.token_ids)
    assert again.usage.rewritten_tokens == 0
    assert (await store.check_integrity()).problems == []


async def test_a_state_that_the_store_has_lost_is_stored_again_when_its_history_is_rendered_anew(
    stage, torpor, store, session, continuation
):
    first = await thought(torpor, session.id, HISTORY[0])
    snapshot = await store.snapshot(first.snapshot)
    names = ObjectNames("torpor", snapshot.fingerprint_id, 0)
    states = [names.key(ref) for ref in snapshot.objects if ref.kind == "state"]
    async with redis.from_url(stage.store.url) as client:
        assert await client.delete(*states) == len(states) > 0
    turn = await torpor.turn(session.id, HISTORY[2], **ANSWER)
    assert turn.usage.rewritten_tokens > 0
    between = await store.snapshot(turn.parent)
    assert between.parent is None
    ids = list(await store.tokens(turn.snapshot))
    assert ids[turn.usage.prompt_tokens :] == turn.token_ids
    assert turn.token_ids == await continuation(
        ids[: turn.usage.prompt_tokens], len(turn.token_ids)
    )
    assert turn.boundary > between.boundary > 0
    found = await store.residencies([between.id, turn.snapshot])
    assert found == {between.id: "stored", turn.snapshot: "stored"}
