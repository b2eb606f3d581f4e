"""While the store is gone a session goes on, and nothing that was said is lost."""

import asyncio

import pytest

from agent_runtime.sdk import ApiError
from engine.client import EngineClient

from .talk import HISTORY, QUESTIONS, asked_in_fork, say


async def test_turns_go_on_without_the_store_and_are_committed_when_it_is_back(
    stage, torpor, session, store
):
    history = await say(torpor, session.id, *HISTORY)
    control = await asked_in_fork(torpor, session.id)
    stranger = await torpor.create()
    stage.store.kill()
    kept = await say(torpor, session.id, *QUESTIONS)
    with pytest.raises(ApiError) as refused:  # nothing is known of it but in the store
        await say(torpor, stranger.id, QUESTIONS[0])
    stage.store.start()
    assert refused.value.code == "store_unavailable"

    assert [turn.token_ids for turn in kept] == [turn.token_ids for turn in control]
    for turn in kept:
        assert (turn.kept, turn.snapshot, turn.durable) == (True, None, None)
        assert "not committed: kept in memory until the store is back" in turn.not_durable_because
        assert turn.parent == history[-1].snapshot

    async with asyncio.timeout(120):
        while (view := await torpor.get(session.id)).kept_turns:
            pass
    snapshots = await torpor.snapshots(session.id)
    assert [snapshot.id for snapshot in snapshots][: len(HISTORY)] == [t.snapshot for t in history]
    assert len(snapshots) == len(HISTORY) + len(kept)
    assert list(await store.tokens(view.head))[-len(kept[-1].token_ids) :] == kept[-1].token_ids

    after = await asked_in_fork(torpor, session.id)
    told = await torpor.turn(session.id, QUESTIONS[0], max_tokens=48)
    assert (told.caught_up, told.kept, told.parent) == (len(kept), False, view.head)
    assert told.token_ids == after[0].token_ids
    assert (await torpor.turn(session.id, QUESTIONS[1])).caught_up == 0

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
