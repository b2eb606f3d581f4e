"""The heart of it: what comes back after everything was killed is what was there before."""

import secrets

import numpy as np
import pytest
import redis.asyncio

from agent_runtime.sdk import ApiError
from engine.client import EngineClient
from state_store.codec import HEADER_BYTES, Frame, seal
from state_store.layout import ObjectNames, ObjectRef
from state_store.objects import ObjectClient

from .talk import HISTORY, PAGE, QUESTIONS, asked_in_fork, difference, say


@pytest.fixture
async def session(torpor, registry):
    """A session like no other: what a test does to its stored state must not reach the next test,
    and pages are shared by all sessions that begin alike."""
    created = await torpor.create(system=f"You are {secrets.token_hex(8)}.", tools=registry.specs())
    yield created
    await torpor.delete(created.id)


def kill_and_restart(stage):
    stage.kill()
    stage.start(lambda _: None)


async def empty_engine(stage, torpor, session):
    """Suspend, then have the engine forget everything, as a new one would know nothing."""
    await torpor.suspend(session.id)
    client = EngineClient(stage.engine.url)
    await client.flush()
    await client.close()


async def test_a_session_goes_on_after_kill_as_if_never_interrupted(stage, torpor, session):
    history = await say(torpor, session.id, *HISTORY)
    early = history[2].snapshot
    control = await asked_in_fork(torpor, session.id)
    early_control = await asked_in_fork(torpor, session.id, early)
    suspended = await torpor.suspend(session.id)
    assert suspended.durable == "fsync"
    assert suspended.bytes_written > 0

    kill_and_restart(stage)

    before = await torpor.get(session.id)
    assert (before.head, before.residency) == (history[-1].snapshot, "stored")
    resumed = await torpor.resume(session.id, strict=True)
    assert resumed.restorable_tokens == before.boundary
    assert resumed.reason is None
    assert (await torpor.get(session.id)).residency == "device"

    again = await asked_in_fork(torpor, session.id)
    for turn, expected in zip(again, control, strict=True):
        assert turn.token_ids == expected.token_ids
        assert turn.logprobs == expected.logprobs  # every bit of the chosen and top logprobs
    usage = again[0].usage
    known = before.tokens
    assert usage.reused_tokens >= (known - 1) // PAGE * PAGE  # the last token is not in the state
    assert usage.recomputed_tokens == known - usage.reused_tokens <= PAGE
    assert usage.recompute_reason == "past the last boundary"
    assert all(turn.mtp_accept_length >= 1 for turn in again)

    early_again = await asked_in_fork(torpor, session.id, early)
    assert difference(early_control, early_again).logprob_difference == 0


async def test_suspending_twice_writes_nothing_the_second_time(torpor, session):
    await say(torpor, session.id, *HISTORY[:2])
    assert (await torpor.suspend(session.id)).bytes_written > 0
    assert (await torpor.suspend(session.id)).bytes_written == 0


async def test_a_turn_after_resume_writes_only_what_is_new(stage, torpor, session):
    history = await say(torpor, session.id, *HISTORY)
    await empty_engine(stage, torpor, session)
    await torpor.resume(session.id, strict=True)
    turn = (await say(torpor, session.id, QUESTIONS[0]))[0]
    new_pages = turn.boundary // PAGE - history[-1].boundary // PAGE
    assert new_pages <= 2
    assert turn.bytes_written < history[-2].bytes_written


@pytest.fixture
async def boundary_state(stage, store, torpor, session):
    """A suspended session with its control answers, and the frame of its head's state."""
    await say(torpor, session.id, *HISTORY)
    control = await asked_in_fork(torpor, session.id)
    await torpor.suspend(session.id)
    head = await store.snapshot((await torpor.get(session.id)).head)
    return control, StoredState(stage, head)


class StoredState:
    """The stored Mamba state of a snapshot, to be tampered with and sealed again."""

    def __init__(self, stage, snapshot):
        self.names = ObjectNames("torpor", snapshot.fingerprint_id, 0)
        self.ref = ObjectRef("state", snapshot.boundary_hash)
        self.key = self.names.key(self.ref)
        self._client = ObjectClient(stage.store.url, timeout=5)

    def read(self, size):
        frame = memoryview(bytearray(size))
        assert self._client.get_into([(self.key, frame)]) == [size]
        return frame

    def write(self, frame, *, sealed=True):
        if sealed:
            place = Frame(frame[:HEADER_BYTES], frame[HEADER_BYTES:])
            seal(place, names=self.names, ref=self.ref)
        self._client.replace([(self.key, frame)], ttl=60)
        self._client.close()


async def _engine_record(store):
    (record,) = await store.engines()
    return record


MAMBA_LAYERS = 4  # of the demo model's pattern MEM*EMEM*E
SSM_BYTES = 8 * 32 * 32 * 4  # heads x head size x state size, float32
CONV_BYTES = (8 * 32 + 2 * 2 * 32) * 3 * 4  # channels x (kernel - 1), float32


def _layers(frame):
    """The payload of a state object, uint8[layers, conv or SSM bytes, then the other's]."""
    return np.frombuffer(frame, np.uint8)[HEADER_BYTES:].reshape(MAMBA_LAYERS, -1)


@pytest.mark.parametrize("damage", ["zero ssm", "zero conv", "swap ssm", "swap conv"])
async def test_a_wrong_recurrent_state_shows_in_the_comparison(
    stage, store, torpor, session, boundary_state, registry, damage
):
    """The proof can fail: state that was tampered with and sealed again gives other logits."""
    control, state = boundary_state
    size = (await _engine_record(store))["state_object_bytes"]
    assert size == HEADER_BYTES + MAMBA_LAYERS * (SSM_BYTES + CONV_BYTES)
    frame = state.read(size)
    other = await torpor.create(system="Another.", tools=registry.specs())
    turn = (await say(torpor, other.id, "Mode: green.", HISTORY[3]))[-1]
    other_frame = StoredState(stage, await store.snapshot(turn.snapshot)).read(size)
    mine = _layers(frame)
    theirs = _layers(other_frame)
    what = slice(0, CONV_BYTES) if "conv" in damage else slice(CONV_BYTES, None)
    mine[:, what] = theirs[:, what] if "swap" in damage else 0
    state.write(frame)

    await empty_engine(stage, torpor, session)
    await torpor.resume(session.id, strict=True)
    again = await asked_in_fork(torpor, session.id)
    assert difference(control, again).logprob_difference > 0
    await torpor.delete(other.id)


async def test_a_damaged_state_is_refused_and_recomputed(
    stage, store, torpor, session, boundary_state
):
    control, state = boundary_state
    size = (await _engine_record(store))["state_object_bytes"]
    frame = state.read(size)
    frame[HEADER_BYTES + 1000] ^= 1
    state.write(frame, sealed=False)

    await empty_engine(stage, torpor, session)
    resumed = await torpor.resume(session.id)
    assert resumed.restorable_tokens == 0
    assert "corrupt" in resumed.reason
    with pytest.raises(ApiError) as refused:
        await torpor.resume(session.id, strict=True)
    assert refused.value.code == "nothing_reused"

    turn = (await say(torpor, session.id, QUESTIONS[0]))[0]
    assert turn.token_ids == control[0].token_ids
    assert turn.usage.recomputed_tokens > PAGE
    assert "corrupt" in turn.usage.recompute_reason
    # What was computed again has replaced the damaged object.
    assert (await store.check_integrity()).problems == []


@pytest.mark.parametrize("kind", ["kv", "state"])
async def test_what_is_damaged_in_the_store_alone_is_stored_again_by_the_next_session(
    stage, store, torpor, kind
):
    """The device still holds it, whole, and sessions that begin alike share it."""
    system = f"You are {secrets.token_hex(8)}. " + "The tide is never late. " * 40
    first = await torpor.create(system=system)
    said = await torpor.turn(first.id, "What is 2 + 2?", max_tokens=4)
    snapshot = await store.snapshot(said.snapshot)
    page = snapshot.page_chain[-1 if kind == "state" else 0]
    key = ObjectNames("torpor", snapshot.fingerprint_id, 0).key(ObjectRef(kind, page))
    async with redis.asyncio.Redis.from_url(stage.store.url) as client:
        value = bytearray(await client.get(key))
        value[HEADER_BYTES + 300] ^= 1
        await client.set(key, bytes(value), keepttl=True)
    await torpor.suspend(first.id)
    assert "corrupt" in (await torpor.resume(first.id)).reason

    second = await torpor.create(system=system)
    turn = await torpor.turn(second.id, "What is 3 + 5?", max_tokens=4)
    assert turn.not_durable_because is None
    assert (await torpor.get(second.id)).boundary > PAGE
    if kind == "state":  # only the first session's
        await torpor.turn(first.id, "What is 4 + 4?", max_tokens=4)
    assert (await store.check_integrity()).problems == []
    for session in (first, second):
        await torpor.delete(session.id)


async def test_a_lost_page_is_recomputed_and_said(stage, store, torpor, session):
    history = await say(torpor, session.id, *HISTORY)
    control = await asked_in_fork(torpor, session.id)
    first = await store.snapshot(history[3].snapshot)
    names = ObjectNames("torpor", first.fingerprint_id, 0)
    with_client = ObjectClient(stage.store.url, timeout=5)
    await _delete(stage, names.key(ObjectRef("kv", first.page_chain[0])))
    with_client.close()

    await empty_engine(stage, torpor, session)
    resumed = await torpor.resume(session.id)
    assert resumed.restorable_tokens == 0
    assert "not in the store" in resumed.reason
    turn = (await say(torpor, session.id, QUESTIONS[0]))[0]
    assert turn.token_ids == control[0].token_ids
    assert "not in the store" in turn.usage.recompute_reason


async def _delete(stage, key):
    async with redis.asyncio.Redis.from_url(stage.store.url) as client:
        assert await client.delete(key) == 1
