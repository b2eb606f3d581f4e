"""Forks anywhere in a session: they start from a kept state, and go on as the session did."""

import re
import secrets
import textwrap
from pathlib import Path

import pytest

from agent_runtime.demo.proof import TOP_LOGPROBS
from agent_runtime.sdk import ApiError
from agent_runtime.turns.boundaries import interval_of, kept
from engine.demo_model import dialogues

from .talk import HISTORY, PAGE, QUESTIONS, TEXT, say

TOLERANCE = 1e-4  # of log-probabilities
ANSWER = {"max_tokens": 48, "top_logprobs": TOP_LOGPROBS}


@pytest.fixture
async def session(torpor, registry):
    """One that shares no page with another test's."""
    created = await torpor.create(system=f"You are {secrets.token_hex(8)}.", tools=registry.specs())
    yield created
    await torpor.delete(created.id)


@pytest.fixture
def interval(engine):
    return interval_of(engine.record, None)


def assert_alike(one, other):
    """The same tokens, of the same log-probabilities: one may come of several boundaries, each of
    which rounds otherwise."""
    assert one.token_ids == other.token_ids
    chosen = [[place.logprob for place in turn.logprobs] for turn in (one, other)]
    assert len(chosen[0]) == len(one.token_ids)
    assert chosen[0] == pytest.approx(chosen[1], abs=TOLERANCE)


async def answer_after(torpor, fork_id, **options):
    turn = await torpor.turn(fork_id, [], proceed=True, **ANSWER | options)
    await torpor.delete(fork_id)
    return turn


async def test_a_fork_at_any_prompt_end_answers_as_the_session_did(torpor, session, flush):
    turns = await say(torpor, session.id, *HISTORY)
    for turn in turns:
        await flush()
        fork = await torpor.fork(session.id, tokens=turn.usage.prompt_tokens)
        assert fork.tokens == turn.usage.prompt_tokens
        assert fork.recompute_tokens == fork.tokens - fork.boundary <= PAGE
        again = await answer_after(torpor, fork.id)
        assert_alike(again, turn)
        # The prompt's last token is computed in any case: its logits are needed.
        assert again.usage.reused_tokens >= min(fork.boundary, (fork.tokens - 1) // PAGE * PAGE)


async def test_a_fork_at_any_turn_answers_the_next_message_as_the_session_did(
    torpor, session, flush
):
    turns = await say(torpor, session.id, *HISTORY)
    starts = [0, *(turn.usage.prompt_tokens + turn.usage.completion_tokens for turn in turns)]
    for position, message in enumerate(HISTORY):
        await flush()
        fork = await torpor.fork(session.id, tokens=starts[position])
        assert fork.head == (turns[position - 1].snapshot if position else None)
        assert fork.recompute_tokens <= PAGE
        (again,) = await say(torpor, fork.id, message)
        assert_alike(again, turns[position])
        assert again.usage.recomputed_tokens <= PAGE
        await torpor.delete(fork.id)


async def test_a_fork_inside_a_long_document_recomputes_at_most_an_interval(
    torpor, store, session, flush, continuation, interval
):
    document = "\n".join(f"{position}: {TEXT}" for position in range(24))
    turn = (await say(torpor, session.id, dialogues.read(document).user))[0]
    prompt = turn.usage.prompt_tokens
    assert prompt > 3 * interval
    (snapshot,) = await torpor.snapshots(session.id)
    assert snapshot.prompt_tokens == prompt
    for tokens in (interval + 1, 2 * interval - 1, prompt - 1):
        await flush()
        fork = await torpor.fork(session.id, tokens=tokens)
        assert (fork.tokens, fork.boundary) == (
            tokens,
            max(b for b in snapshot.boundaries if b <= tokens),
        )
        assert fork.recompute_tokens <= interval
        known = await store.tokens(fork.head)
        rewound = await answer_after(torpor, fork.id, max_tokens=16)
        assert rewound.usage.recomputed_tokens == fork.recompute_tokens
        assert rewound.token_ids == await continuation(known, len(rewound.token_ids))
    assert (await store.check_integrity()).problems == []


async def test_a_fork_inside_a_turn_outlives_the_session_that_it_came_from(torpor, store, registry):
    origin = await torpor.create(system=f"You are {secrets.token_hex(8)}.", tools=registry.specs())
    turn, *_ = await say(torpor, origin.id, HISTORY[3], HISTORY[0])
    fork = await torpor.fork(origin.id, tokens=turn.usage.prompt_tokens)
    await torpor.delete(origin.id)
    assert (await store.check_integrity()).problems == []
    assert (await answer_after(torpor, fork.id)).token_ids == turn.token_ids
    assert (await store.check_integrity()).problems == []


async def test_a_fork_of_more_tokens_than_there_are_is_refused(torpor, session):
    turn = (await say(torpor, session.id, HISTORY[0]))[0]
    known = turn.usage.prompt_tokens + turn.usage.completion_tokens
    with pytest.raises(ApiError, match=f"has {known} tokens") as refused:
        await torpor.fork(session.id, tokens=known + 1)
    assert refused.value.code == "bad_request"


async def test_what_the_page_proceeds_with_is_another_answer_to_the_prompt(torpor, session):
    page = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    named = {"torpor": torpor, "session": session}
    named["result"] = (await say(torpor, session.id, QUESTIONS[0]))[0]
    returned = textwrap.indent(f"{example}return fork, again", "    ")
    exec(f"async def shown(torpor, session, result):\n{returned}", names := {})
    fork, again = await names["shown"](**named)
    assert again.usage.prompt_tokens == fork.tokens == named["result"].usage.prompt_tokens
    assert again.token_ids
    assert (await torpor.get(session.id)).head == named["result"].snapshot
    await torpor.delete(fork.id)


async def test_nothing_to_proceed_with_is_refused(torpor, session):
    with pytest.raises(ApiError, match="nothing to proceed with"):
        await torpor.turn(session.id, [], proceed=True)
    head = (await say(torpor, session.id, *QUESTIONS[:1]))[0].snapshot
    with pytest.raises(ApiError, match="nothing to proceed with"):
        await torpor.turn(session.id, [], proceed=True)
    assert (await torpor.get(session.id)).head == head


@pytest.mark.parametrize(
    ("states", "prompt_pages", "expected"),
    [
        ((), 5, ()),
        ((3,), 0, (3,)),
        ((4, 5), 4, (4, 5)),  # prompt end, turn end
        ((2, 4, 6, 8, 10), 10, (4, 8, 10)),  # four pages apart at most
        ((2, 4, 6, 8, 10), 7, (4, 6, 10)),
        ((5, 10, 15), 15, (5, 10, 15)),  # further apart than asked for: all there is
        ((3, 5), -2, (3, 5)),
    ],
)
def test_states_are_kept_at_the_ends_and_every_interval_between(states, prompt_pages, expected):
    assert kept(states, prompt_pages=prompt_pages, interval_pages=4) == expected


async def test_a_prompt_that_leaves_anothers_in_the_middle_has_a_state_at_its_own_end(
    torpor, registry
):
    """And one where it left the other, from which the next that leaves it there goes on."""
    system = f"You are {secrets.token_hex(8)}."
    lines = TEXT.splitlines()
    endings = ["\n".join(lines[-shift:] + lines[:-shift]) for shift in (1, 3, 5)]
    reused = []
    for ending in endings:
        created = await torpor.create(system=system, tools=registry.specs())
        text = dialogues.read(TEXT + ending).user
        turn = (await say(torpor, created.id, text, max_tokens=1))[0]
        (snapshot,) = await torpor.snapshots(created.id)
        assert turn.usage.prompt_tokens - snapshot.boundary < PAGE
        reused.append(turn.usage.reused_tokens)
        await torpor.delete(created.id)
    assert reused[0] <= reused[1] < reused[2]


async def test_only_what_begins_an_answer_can_be_held_to_something(torpor, session):
    turn = (await say(torpor, session.id, QUESTIONS[0]))[0]
    beginning = turn.usage.prompt_tokens
    fork = await torpor.fork(session.id, tokens=beginning)
    held = {"regex": "7+", "tool_choice": "none", "max_tokens": 4}
    assert set((await answer_after(torpor, fork.id, **held)).text) == {"7"}
    fork = await torpor.fork(session.id, tokens=beginning + 1)
    with pytest.raises(ApiError, match="in the middle of an answer"):
        await torpor.turn(fork.id, [], proceed=True, **held)
    await torpor.delete(fork.id)
