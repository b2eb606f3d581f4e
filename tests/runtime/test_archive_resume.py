"""Sessions that were archived go on as if they had never left, and say where they are."""

import secrets
from pathlib import Path

import pytest

from agent_runtime.sdk import ApiError
from engine.client import EngineClient
from engine.pool import EnginePool
from state_store.archive.policy import ArchivePolicy
from state_store.store import StateStore

from .talk import HISTORY, PAGE, QUESTIONS, asked_in_fork, say


@pytest.fixture
async def session(torpor, registry):
    """Its pages are shared with no other test's session: archived ones are no others'."""
    created = await torpor.create(system=f"You are {secrets.token_hex(8)}.", tools=registry.specs())
    yield created
    await torpor.delete(created.id)


@pytest.fixture
async def keeper(stage):
    """A process that moves sessions out."""
    async with await StateStore.connect(stage.store.url, archive=stage.archive) as store:
        yield store


async def empty_engine(stage, torpor, session):
    await torpor.suspend(session.id)
    client = EngineClient(stage.engine.url)
    await client.flush()
    await client.close()


def empty(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


async def until_back(keeper, session):
    """The runtime brings it back behind the engine's reading; here that is waited for."""
    await keeper.bring_back(session.id)


async def test_a_session_resumed_from_the_archive_goes_on_to_the_bit(
    stage, torpor, session, keeper
):
    await say(torpor, session.id, *HISTORY)
    control = await asked_in_fork(torpor, session.id)
    await empty_engine(stage, torpor, session)
    report = await keeper.sweep(ArchivePolicy(idle=0, spare=0))
    assert session.id in [swept.session_id for swept in report.sessions]
    before = await torpor.get(session.id)
    assert before.residency == "archived"

    resumed = await torpor.resume(session.id, strict=True)
    assert resumed.restorable_tokens == before.boundary
    assert (resumed.reason, resumed.bytes_read > 0) == (None, True)
    await until_back(keeper, session)
    assert await keeper.residency(session.id) == "stored"

    again = await asked_in_fork(torpor, session.id)
    for turn, expected in zip(again, control, strict=True):
        assert turn.token_ids == expected.token_ids
        assert turn.logprobs == expected.logprobs
    assert again[0].usage.reused_tokens >= (before.tokens - 1) // PAGE * PAGE


async def test_an_engine_reads_the_archive_by_itself(stage, torpor, session, keeper):
    await say(torpor, session.id, *HISTORY[:2])
    await empty_engine(stage, torpor, session)
    await keeper.archive_session(session.id, spare=0)
    head = (await torpor.get(session.id)).head
    hashes = [page for one in await keeper.ancestors(head) for page in one.page_chain]
    pool = EnginePool(keeper)
    found = await (await pool.pick()).prefetch(hashes, timeout=60)
    await pool.close()
    assert (found.pages, found.state, found.reason) == (len(hashes), True, None)
    assert found.bytes_read > 0
    assert await keeper.residency(session.id) == "archived"


async def test_a_turn_on_an_archived_session_restores_it(stage, torpor, session, keeper):
    await say(torpor, session.id, *HISTORY[:2])
    await empty_engine(stage, torpor, session)
    await keeper.archive_session(session.id, spare=0)
    before = await torpor.get(session.id)
    (turn,) = await say(torpor, session.id, QUESTIONS[0])
    assert turn.usage.reused_tokens >= (before.tokens - 1) // PAGE * PAGE
    await until_back(keeper, session)
    assert await keeper.residency(session.id) == "stored"


async def test_what_the_archive_has_lost_is_recomputed_and_said(stage, torpor, session, keeper):
    await say(torpor, session.id, *HISTORY[:2])
    await empty_engine(stage, torpor, session)
    await keeper.archive_session(session.id, spare=0)
    empty(Path(stage.archive.removeprefix("file://")))
    resumed = await torpor.resume(session.id)
    assert resumed.restorable_tokens == 0
    assert "archived objects are gone" in resumed.reason
    (turn,) = await say(torpor, session.id, QUESTIONS[0])
    assert turn.usage.reused_tokens == 0
    assert turn.usage.recomputed_tokens > 0


async def test_a_suspend_does_not_call_durable_what_a_restart_may_have_lost(stage, torpor, session):
    await say(torpor, session.id, HISTORY[0])
    stage.store.kill()
    stage.store.start()
    with pytest.raises(ApiError, match="read the head again"):
        await torpor.suspend(session.id)
    suspended = await torpor.suspend(session.id)  # of the head as it is now
    assert suspended.durable == "fsync"
    assert suspended.head == (await torpor.get(session.id)).head
