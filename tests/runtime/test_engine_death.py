"""An engine that dies takes no session with it."""

import asyncio

import pytest

from agent_runtime.messages.histories import EMPTY
from agent_runtime.sdk import ApiError
from agent_runtime.turns.committing import commit_turn
from engine.errors import EngineUnreachable
from engine.pool import EnginePool
from engine.replies import Settled

from .talk import HISTORY, PAGE, QUESTIONS, asked_in_fork, say


@pytest.mark.slow
async def test_a_turn_whose_engine_is_killed_fails_clearly_and_changes_nothing(
    stage, torpor, session
):
    history = await say(torpor, session.id, *HISTORY)
    control = await asked_in_fork(torpor, session.id)
    running = asyncio.create_task(torpor.turn(session.id, "Read this:\n" + "word " * 8000))
    await asyncio.sleep(0.5)
    stage.engine.kill()
    with pytest.raises(ApiError) as failed:
        await running
    assert failed.value.code == "engine_unreachable"
    assert "session is unchanged" in str(failed.value)
    assert (await torpor.get(session.id)).head == history[-1].snapshot

    with pytest.raises(ApiError) as failed:
        await torpor.turn(session.id, QUESTIONS[0])
    assert failed.value.code in ("engine_unreachable", "no_engine")

    stage.engine.start()
    stage.engine.wait_until_serving()
    again = await asked_in_fork(torpor, session.id)  # no resume: the turn itself notices
    assert [turn.token_ids for turn in again] == [turn.token_ids for turn in control]
    assert again[0].usage.recomputed_tokens <= PAGE


class _Settling:
    """An engine that says what it stored, in the place of one that is wrong or gone."""

    def __init__(self, record, answer):
        self.record = record
        self._answer = answer

    async def settle(self, hashes, *, timeout, form):
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    persist = settle

    async def renew(self, hashes, *, timeout, form):
        return 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Settled((1,), None), "2 of 2 objects"),
        (EngineUnreachable("engine is gone"), "engine is gone"),
        (Settled((), None), "has stored no state"),
        (Settled((), "too slow"), "too slow"),
    ],
    ids=["claims what is not there", "gone", "stored nothing", "too slow"],
)
async def test_tokens_are_committed_even_if_their_state_is_not_stored(
    store, torpor, session, answer, why
):
    pool = EnginePool(store)
    engine = _Settling((await pool.pick()).record, answer)
    lease = await store.acquire(session.id, ttl=30, owner="test")
    absent = "ab" * 32
    commit, shortfall = await commit_turn(
        store,
        engine,
        await store.session(session.id),
        lease,
        EMPTY,
        list(range(PAGE + 1)),
        [absent],
        prompt_tokens=PAGE,
        durability="memory",
        settle_timeout=1,
        boundary_interval=None,
    )
    await store.release(lease)
    await pool.close()
    assert commit.snapshot.boundary == 0
    assert list(await store.tokens(commit.snapshot.id)) == list(range(PAGE + 1))
    assert why in shortfall
