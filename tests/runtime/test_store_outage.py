"""While the store is gone a session goes on, and nothing that was said is lost."""

import asyncio
import itertools
import signal
import time

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from agent_runtime.demo.script import SYSTEM
from agent_runtime.graph import ask, build_agent
from agent_runtime.langchain import ChatTorpor
from agent_runtime.sdk import ApiError
from engine.client import EngineClient
from engine.linker.config import LinkerConfig
from engine.pool import EnginePool
from tools.registry import Registry

from .talk import HISTORY, QUESTIONS, asked_in_fork, say


async def test_turns_go_on_without_the_store_and_are_committed_when_it_is_back(
    stage, torpor, session, store
):
    history = await say(torpor, session.id, *HISTORY)
    control = await asked_in_fork(torpor, session.id)
    stranger = await torpor.create()
    stage.store.kill()
    kept = await say(torpor, session.id, *QUESTIONS[:-1], workspace="f" * 64)
    kept += await say(torpor, session.id, QUESTIONS[-1], idempotency_key="kept")
    (again,) = await say(torpor, session.id, QUESTIONS[-1], idempotency_key="kept")
    with pytest.raises(ApiError) as reused:
        await say(torpor, session.id, QUESTIONS[0], idempotency_key="kept")
    with pytest.raises(ApiError) as refused:  # nothing is known of it but in the store
        await say(torpor, stranger.id, QUESTIONS[0])
    stage.store.start()
    assert refused.value.code == "store_unavailable"
    assert (again.token_ids, again.replayed) == (kept[-1].token_ids, True)
    assert reused.value.code == "key_reused"

    assert [turn.token_ids for turn in kept] == [turn.token_ids for turn in control]
    for turn in kept:
        assert (turn.kept, turn.snapshot, turn.durable) == (True, None, None)
        assert "not committed: kept in memory until the store is back" in turn.not_durable_because
        assert turn.parent == history[-1].snapshot

    view = await until_committed(torpor, session.id)
    snapshots = await torpor.snapshots(session.id)
    assert [snapshot.id for snapshot in snapshots][: len(HISTORY)] == [t.snapshot for t in history]
    assert len(snapshots) == len(HISTORY) + len(kept)
    assert list(await store.tokens(view.head))[-len(kept[-1].token_ids) :] == kept[-1].token_ids

    (found,) = await say(torpor, session.id, QUESTIONS[-1], idempotency_key="kept")
    assert (found.snapshot, found.token_ids) == (view.head, kept[-1].token_ids)

    after = await asked_in_fork(torpor, session.id)
    told = await torpor.turn(session.id, QUESTIONS[0], max_tokens=48)
    assert (told.caught_up, told.kept, told.parent) == (len(kept), False, view.head)
    assert told.token_ids == after[0].token_ids
    lost = [one for one in told.problems if "the store has lost its own, ffffffffffff…" in one]
    assert len(lost) == len(QUESTIONS) - 1
    following = await torpor.turn(session.id, QUESTIONS[1])
    assert (following.caught_up, following.problems) == (0, [])

    # Their states have been stored too: the session does not depend on the device.
    with pytest.raises(
        ApiError
    ) as changed:  # what was stored before the restart is not vouched for
        await torpor.suspend(session.id)
    assert changed.value.code == "servers_changed"
    await torpor.suspend(session.id)
    client = EngineClient(stage.engine.url)
    await client.flush()
    await client.close()
    fork = await torpor.fork(session.id, snapshot=view.head)
    await torpor.resume(fork.id, strict=True)
    again = await torpor.turn(fork.id, QUESTIONS[0], max_tokens=48)
    assert again.token_ids == after[0].token_ids
    assert again.usage.reused_tokens >= view.boundary > history[-1].boundary
    await torpor.delete(fork.id)
    await torpor.delete(stranger.id)


async def test_a_turn_that_was_committed_is_not_said_again_while_the_store_is_gone(
    stage, torpor, session
):
    """Its answer may have been lost on the way."""
    (first,) = await say(torpor, session.id, HISTORY[0], idempotency_key="before the outage")
    stage.store.kill()
    try:
        (again,) = await say(torpor, session.id, HISTORY[0], idempotency_key="before the outage")
        with pytest.raises(ApiError) as reused:
            await say(torpor, session.id, HISTORY[1], idempotency_key="before the outage")
    finally:
        stage.store.start()
    assert again == first.model_copy(update={"replayed": True})
    assert reused.value.code == "key_reused"
    await until_committed(torpor, session.id)
    assert [one.id for one in await torpor.snapshots(session.id)] == [first.snapshot]


async def test_agents_go_on_behind_turns_that_were_kept(stage, torpor):
    agent = build_agent(torpor, Registry([]), checkpointer=InMemorySaver(), max_tokens=8)
    sessions = [await torpor.create(system=f"{SYSTEM} {number}") for number in range(2)]
    chat = ChatTorpor(url=stage.runtime.url, session=sessions[1].id, max_tokens=8)
    said = [HumanMessage("Hi")]
    await ask(agent, sessions[0], "Hi", thread="a")
    said += [await chat.ainvoke(said), HumanMessage("My name is Ada.")]
    stage.store.kill()
    (kept,) = await ask(agent, None, "My name is Ada.", thread="a")
    said += [await chat.ainvoke(said), HumanMessage("What is my name?")]
    stage.store.start()
    assert (kept.turn.kept, said[-2].response_metadata["snapshot"]) == (True, None)
    (step,) = await ask(agent, None, "What is my name?", thread="a")
    answer = await chat.ainvoke(said)
    turns = [(step.turn.session_id, step.turn.parent)]
    turns.append((answer.response_metadata["session"], answer.response_metadata["parent"]))
    for session, (session_id, parent) in zip(sessions, turns, strict=True):
        snapshots = await torpor.snapshots(session.id)
        assert (session_id, parent) == (session.id, snapshots[1].id)
        assert len(snapshots) == 3
        await torpor.delete(session.id)


@pytest.mark.slow
async def test_without_store_and_engine_a_turn_ends_by_name_and_what_was_said_is_kept(
    stage, torpor, session, store
):
    history = await say(torpor, session.id, *HISTORY)
    control = await asked_in_fork(torpor, session.id)
    stage.store.kill()
    (kept,) = await say(torpor, session.id, QUESTIONS[0])
    stage.engine.kill()
    with pytest.raises(ApiError, match="No other engine takes over: the store") as failed:
        await torpor.turn(session.id, QUESTIONS[1])
    assert failed.value.code == "engine_unreachable"
    stage.store.start()

    view = await until_committed(torpor, session.id)  # without the engine that computed it
    assert view.head != history[-1].snapshot
    assert list(await store.tokens(view.head))[-len(kept.token_ids) :] == kept.token_ids
    with pytest.raises(ApiError) as failed:
        await torpor.turn(session.id, QUESTIONS[1])
    assert failed.value.code == "no_engine"

    stage.engine.start()
    stage.engine.wait_until_serving()
    again = await say(torpor, session.id, *QUESTIONS[1:])
    assert [turn.token_ids for turn in [kept, *again]] == [turn.token_ids for turn in control]
    assert (again[0].caught_up, again[0].parent) == (1, view.head)
    assert again[0].usage.reused_tokens >= view.boundary >= history[-1].boundary
    assert (await store.check_integrity()).problems == []


@pytest.mark.slow
async def test_a_store_that_is_gone_for_a_minute_gets_all_that_was_said_meanwhile(
    stage, torpor, store, registry
):
    sessions = []
    for number in range(2):
        created = await torpor.create(system=f"{SYSTEM} {number}", tools=registry.specs())
        await say(torpor, created.id, *HISTORY)
        sessions.append((created.id, (await torpor.get(created.id)).head))
    said = []  # results of both sessions, turn by turn
    began = time.monotonic()
    stage.store.process.send_signal(signal.SIGSTOP)  # first it is silent, then it is dead
    is_dead = False
    for question in itertools.cycle(QUESTIONS):
        asked_at = time.monotonic()
        said.append(
            await asyncio.gather(*(torpor.turn(s, question, max_tokens=24) for s, _ in sessions))
        )
        assert time.monotonic() - asked_at < 60
        gone = time.monotonic() - began
        if gone > 30 and not is_dead:
            stage.store.kill()
            is_dead = True
        if gone > 65:
            break
        if is_dead:
            await asyncio.sleep(5)  # it is long that it is gone, not much that is said
    stage.store.start()
    assert all(turn.kept and turn.snapshot is None for turns in said for turn in turns)

    for number, (session_id, head) in enumerate(sessions):
        view = await until_committed(torpor, session_id)
        added = (await torpor.snapshots(session_id))[len(HISTORY) :]
        assert len(added) == len(said) >= 5
        fork = await torpor.fork(session_id, snapshot=head)
        for question, turns in zip(itertools.cycle(QUESTIONS), said, strict=False):
            control = await torpor.turn(fork.id, question, max_tokens=24)
            assert turns[number].token_ids == control.token_ids
        forked = await torpor.get(fork.id)
        assert await store.tokens(view.head) == await store.tokens(forked.head)
        assert view.boundary == forked.boundary
        await torpor.delete(fork.id)
        await torpor.delete(session_id)
    pool = EnginePool(store)
    (status,) = await (await pool.pick()).status()
    await pool.close()
    bounds = LinkerConfig.model_fields
    assert 0 < status["offloads_waiting_most"] <= bounds["offload_queue_count"].default
    assert status["offload_bytes_waiting_most"] <= bounds["offload_queue_bytes"].default
    assert status["offloads_waiting"] == 0
    assert (await store.check_integrity()).problems == []


async def until_committed(torpor, session_id):
    """The session when none of its turns waits for the store any more."""
    async with asyncio.timeout(120):
        while (view := await torpor.get(session_id)).kept_turns:
            pass
    return view
