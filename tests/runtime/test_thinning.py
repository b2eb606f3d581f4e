"""Of the states that a long prompt leaves, those are stored that somebody may come back to."""

import secrets
from itertools import pairwise

import pytest

from engine.client import Sampling
from engine.demo_model import dialogues
from state_store.identity import page_hashes

from .served import served
from .talk import HISTORY, PAGE, TEXT, say

CHUNK = 1024  # the demo profile's
INTERVAL = 3 * CHUNK
LONG = dialogues.read("\n".join(f"{position}: {TEXT}" for position in range(36))).user


@pytest.fixture
async def sparing(stage):
    """A client of a runtime that wants few states."""
    async with served(stage, boundary_interval=INTERVAL) as torpor:
        yield torpor


@pytest.fixture
async def session(sparing, registry):
    """One that shares no page with another test's."""
    system = f"You are {secrets.token_hex(8)}."
    created = await sparing.create(system=system, tools=registry.specs())
    yield created
    await sparing.delete(created.id)


async def test_nothing_is_stored_but_what_the_session_keeps(sparing, session, engine):
    turns = await say(sparing, session.id, LONG, *HISTORY[:2])
    found = await sparing.whereabouts(session.id)
    assert found.offloaded_bytes == sum(turn.bytes_written for turn in turns)

    (first, *_) = await sparing.snapshots(session.id)
    prompt_end = first.prompt_tokens // PAGE * PAGE
    assert first.prompt_tokens > 7 * CHUNK
    inside = [boundary for boundary in first.boundaries if boundary < prompt_end]
    assert prompt_end in first.boundaries
    assert len(inside) == (prompt_end - 1) // INTERVAL
    assert all(b - a <= INTERVAL for a, b in pairwise([0, *inside, prompt_end]))


async def test_a_fork_at_any_place_recomputes_an_interval_at_most(
    sparing, session, store, engine, continuation
):
    await say(sparing, session.id, LONG)
    (snapshot,) = await sparing.snapshots(session.id)
    for tokens in (INTERVAL - 1, snapshot.boundaries[0] + 5, 2 * INTERVAL + 17):
        await engine.client.flush()
        fork = await sparing.fork(session.id, tokens=tokens)
        assert fork.recompute_tokens == tokens - fork.boundary < INTERVAL
        known = await store.tokens(fork.head)
        again = await sparing.turn(fork.id, [], proceed=True, max_tokens=12)
        assert again.usage.reused_tokens == fork.boundary
        assert again.token_ids == await continuation(known, len(again.token_ids))
        await sparing.delete(fork.id)
    assert (await store.check_integrity()).problems == []


async def test_a_state_that_was_left_out_is_stored_once_a_prompt_ends_there(
    sparing, session, store, engine
):
    await say(sparing, session.id, LONG)
    (snapshot,) = await sparing.snapshots(session.id)
    assert CHUNK not in snapshot.boundaries
    salt = (await store.tenant("default")).salt
    prompt = (await store.tokens(snapshot.id))[: CHUNK + 10]
    chain = page_hashes(prompt, PAGE, salt=salt, bigram=engine.record.fingerprint.bigram)[
        : CHUNK // PAGE
    ]
    there = await engine.where(chain, name="nobody", timeout=20)
    beyond = await engine.where(chain, name="nobody", timeout=20, since=2)
    for whole, part in ((there.device, beyond.device), (there.stored, beyond.stored)):
        assert part.pages == whole.pages > 2
        assert part.states == tuple(states for states in whole.states if states > 2)
    assert CHUNK // PAGE in there.device.states
    assert CHUNK // PAGE not in there.stored.states

    sampling = Sampling(max_new_tokens=2, ignore_eos=True)
    async for _ in engine.client.generate(prompt, sampling, salt=salt):
        pass
    settled = await engine.settle(chain, timeout=20)
    assert CHUNK // PAGE in settled.states


async def test_what_is_persisted_includes_the_last_state_of_a_chain(
    sparing, session, store, engine
):
    await say(sparing, session.id, LONG)
    (snapshot,) = await sparing.snapshots(session.id)
    chain = (await store.snapshot(snapshot.id)).page_chain[: CHUNK // PAGE]
    assert (await engine.settle(chain, timeout=20)).states == ()
    assert (await engine.persist(chain, timeout=20)).states == (CHUNK // PAGE,)
