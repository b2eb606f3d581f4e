"""A client that waits long is told how far a turn or a resume is, and what a session has taken."""

import secrets

import pytest
import redis

from agent_runtime.wire.events import Progress, Text
from agent_runtime.wire.turns import TurnResult
from engine.client import Sampling
from engine.demo_model import dialogues
from engine.errors import LoadFailed
from engine.tags import tagged
from state_store.layout import ObjectNames, ObjectRef

from .served import served
from .talk import HISTORY, QUESTIONS, TEXT, say

CHUNK = 1024  # the demo profile's
LONG = dialogues.read("\n".join(f"{position}: {TEXT}" for position in range(40))).user


@pytest.fixture
async def session(torpor, registry):
    """One that shares no page with another test's."""
    created = await torpor.create(system=f"You are {secrets.token_hex(8)}.", tools=registry.specs())
    yield created
    await torpor.delete(created.id)


@pytest.fixture
async def eager(stage):
    """A client of a runtime that tells its progress as often as it can be asked."""
    async with served(stage, progress_after=0, progress_interval=0) as torpor:
        yield torpor


async def test_a_long_prompt_tells_how_much_of_it_is_computed(eager, session):
    events = [event async for event in eager.stream(session.id, LONG, max_tokens=4)]
    *others, result = events
    assert isinstance(result, TurnResult)
    prompt = result.usage.prompt_tokens
    assert prompt > 6 * CHUNK
    prefill = [e for e in others if isinstance(e, Progress) and e.phase == "prefill"]
    assert len(prefill) >= 3
    assert {e.total for e in prefill} == {prompt}
    done = [e.done for e in prefill]
    assert done == sorted(set(done))
    assert all(0 < d < prompt and (d - done[0]) % CHUNK == 0 for d in done)
    first_text = next(i for i, e in enumerate(others) if not isinstance(e, Progress))
    assert all(e not in prefill for e in others[first_text:])


async def test_tokens_that_the_engine_sends_at_once_come_as_one_event(torpor, session):
    question = dialogues.repeat("harbour closed given licence 7 1 9 3 5 5 1 2").user
    *told, turn = [event async for event in torpor.stream(session.id, question, max_tokens=64)]
    steps = len(turn.token_ids) / turn.mtp_accept_length
    assert 0 < sum(isinstance(event, Text) for event in told) <= steps + 2


async def test_what_a_session_has_taken_is_counted(torpor, session, engine, flush):
    turns = await say(torpor, session.id, HISTORY[3], *HISTORY)
    found = await torpor.whereabouts(session.id)
    computed = sum(turn.usage.prompt_tokens - turn.usage.reused_tokens for turn in turns)
    assert found.prefilled_tokens == computed
    assert (found.loaded_bytes, found.failed_loads) == (0, 0)
    assert found.offloaded_bytes >= sum(turn.bytes_written for turn in turns)

    await torpor.suspend(session.id)
    await flush()
    resumed = await torpor.resume(session.id)
    work = await engine.progress(session.id, timeout=10)
    assert work.load == (resumed.bytes_read, resumed.bytes_read)
    (again,) = await say(torpor, session.id, QUESTIONS[0])
    assert again.usage.reused_tokens >= resumed.restorable_tokens > 0
    after = await torpor.whereabouts(session.id)
    assert after.loaded_bytes == resumed.bytes_read
    assert (
        after.prefilled_tokens == computed + again.usage.prompt_tokens - again.usage.reused_tokens
    )
    work = await engine.progress(session.id, timeout=10)
    assert work.prefill == (again.usage.prompt_tokens, again.usage.prompt_tokens)
    assert work.offload[0] == work.offload[1]


async def test_a_load_that_fails_is_counted(torpor, session, store, stage, engine, flush):
    (turn,) = await say(torpor, session.id, HISTORY[3])
    head = await store.snapshot(turn.snapshot)
    await flush()
    await engine.announce(head.page_chain, timeout=10)
    names = ObjectNames("torpor", engine.record.fingerprint.id, 0)
    with redis.Redis(unix_socket_path=stage.store.url.removeprefix("unix://")) as client:
        assert client.delete(names.key(ObjectRef("state", head.boundary_hash))) == 1
    tokens, salt = await store.tokens(head.id), (await store.tenant("default")).salt
    tag = tagged(session.id, 99)
    with pytest.raises(LoadFailed):
        async for _ in engine.client.generate(tokens, Sampling(1), salt=salt, session_id=tag):
            pass
    work = await engine.progress(session.id, timeout=10)
    assert (work.failed_loads, work.loaded_bytes, work.load) == (1, 0, (0, 0))


async def test_a_resume_that_takes_long_is_told_with_its_result(eager, session, flush):
    await eager.turn(session.id, LONG, max_tokens=4)
    await eager.suspend(session.id)
    await flush()
    events = []
    resumed = await eager.resume(session.id, on_progress=events.append)
    assert resumed.restorable_tokens > 0
    assert {event.phase for event in events} <= {"load"}
    assert {event.total for event in events} <= {resumed.bytes_read}
    assert [e.done for e in events] == sorted({e.done for e in events})
