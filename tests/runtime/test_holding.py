"""`persist`, `hold`, `release` and `drop`: where a head's state is, as its owner wants it."""

import contextlib
import secrets

import pytest
import redis

from agent_runtime.sdk import ApiError
from engine.demo_model import dialogues
from state_store.layout import ObjectNames, ObjectRef

from .talk import HISTORY, QUESTIONS, TEXT, say

LONG = "\n".join(f"{position}: {TEXT}" for position in range(24))


@pytest.fixture
async def session(torpor, registry):
    """One that shares no page with another test's."""
    created = await torpor.create(system=f"You are {secrets.token_hex(8)}.", tools=registry.specs())
    yield created
    await torpor.delete(created.id)


@pytest.fixture
def lose(engine, stage):
    """Delete a state from the store behind everybody's back."""
    names = ObjectNames("torpor", engine.record.fingerprint.id, 0)

    def lose(page_hash):
        with redis.Redis(unix_socket_path=stage.store.url.removeprefix("unix://")) as client:
            assert client.delete(names.key(ObjectRef("state", page_hash))) == 1

    return lose


async def test_a_dropped_session_is_off_the_device_and_goes_on_from_the_store(torpor, session):
    turns = await say(torpor, session.id, *HISTORY)
    boundary = turns[-1].boundary
    assert (await torpor.whereabouts(session.id)).device_tokens == boundary
    dropped = await torpor.drop(session.id)
    assert (dropped.head, dropped.engine) == (turns[-1].snapshot, "engine")
    assert dropped.freed_tokens == boundary
    found = await torpor.whereabouts(session.id)
    assert (found.device_tokens, found.stored_tokens) == (0, boundary)
    (answer,) = await say(torpor, session.id, QUESTIONS[0])
    assert answer.usage.reused_tokens >= boundary


async def test_what_a_fork_goes_on_from_stays_on_the_device(torpor, session):
    first, *_ = await say(torpor, session.id, HISTORY[3])
    fork = await torpor.fork(session.id)
    (other,) = await say(torpor, fork.id, dialogues.read(TEXT[40:]).user)
    (last,) = await say(torpor, session.id, HISTORY[3])
    dropped = await torpor.drop(session.id)
    assert 0 < dropped.freed_tokens <= last.boundary - first.boundary
    assert (await torpor.whereabouts(fork.id)).device_tokens == other.boundary
    await torpor.delete(fork.id)


async def test_a_drop_is_refused_while_a_turn_runs(torpor, session):
    (first,) = await say(torpor, session.id, HISTORY[0])
    async with contextlib.aclosing(
        torpor.stream(session.id, dialogues.read(LONG).user, max_tokens=400)
    ) as events:
        await anext(events)
        with pytest.raises(ApiError) as refused:
            await torpor.drop(session.id)
        assert refused.value.code == "lease_held"
        result = [event async for event in events][-1]
    assert result.parent == first.snapshot
    assert result.usage.reused_tokens >= first.boundary


async def test_a_held_session_stays_until_it_is_released(torpor, session, engine, store):
    turns = await say(torpor, session.id, *HISTORY)
    held = await torpor.hold(session.id, seconds=3600)
    assert (held.head, held.held_tokens) == (turns[-1].snapshot, turns[-1].boundary)
    assert 3500 < (await torpor.whereabouts(session.id)).held_for <= 3600

    snapshots = await torpor.snapshots(session.id)
    chain = [h for one in snapshots for h in (await store.snapshot(one.id)).page_chain]
    assert await engine.drop(chain, timeout=20) == 0
    assert (await torpor.whereabouts(session.id)).device_tokens == turns[-1].boundary

    assert (await torpor.release(session.id)).was_held
    assert not (await torpor.release(session.id)).was_held
    assert (await torpor.whereabouts(session.id)).held_for is None
    assert await engine.drop(chain, timeout=20) == len(chain)


async def test_a_suspended_session_is_held_no_more(torpor, session):
    await say(torpor, session.id, HISTORY[0])
    await torpor.hold(session.id)
    await torpor.suspend(session.id)
    assert (await torpor.whereabouts(session.id)).held_for is None


async def test_what_is_not_on_the_device_cannot_be_held(torpor, session, flush):
    with pytest.raises(ApiError) as refused:
        await torpor.hold(session.id)
    assert refused.value.code == "not_held"
    await say(torpor, session.id, HISTORY[0])
    await flush()
    with pytest.raises(ApiError, match="nothing of it is on the device") as refused:
        await torpor.hold(session.id)
    assert (refused.value.code, refused.value.status) == ("not_held", 409)


async def test_what_the_store_lost_is_stored_again_by_persist(torpor, session, store, lose):
    turns = await say(torpor, session.id, *HISTORY)
    boundary = turns[-1].boundary
    head = await store.snapshot(turns[-1].snapshot)
    lose(head.boundary_hash)
    assert (await torpor.whereabouts(session.id)).stored_tokens < boundary
    persisted = await torpor.persist(session.id)
    assert (persisted.head, persisted.durable, persisted.reason) == (head.id, "fsync", None)
    assert (await torpor.whereabouts(session.id)).stored_tokens == boundary


async def test_persist_says_what_it_could_not_store_again(torpor, session, store, lose, flush):
    turns = await say(torpor, session.id, *HISTORY)
    head = await store.snapshot(turns[-1].snapshot)
    await flush()
    lose(head.boundary_hash)
    persisted = await torpor.persist(session.id, durability="memory")
    assert persisted.durable == "memory"
    assert "does not hold all that the store has lost" in persisted.reason


async def test_persist_leaves_the_session_on_the_device_and_suspend_reports_what_it_wrote(
    torpor, session
):
    turns = await say(torpor, session.id, *HISTORY)
    await torpor.persist(session.id)
    assert (await torpor.get(session.id)).residency == "device"
    suspended = await torpor.suspend(session.id)
    assert suspended.bytes_written == sum(turn.bytes_written for turn in turns)
