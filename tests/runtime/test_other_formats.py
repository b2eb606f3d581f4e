"""A session whose engines are gone goes on at one of the same model with another state format.

Here one speculates and one does not: pages of one have draft KV, and those of the other none.
"""

from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent_runtime.demo.script import SYSTEM
from agent_runtime.sdk import ApiError
from engine.launch import EngineOptions, EngineProcess, free_port
from engine.pool import EnginePool

pytestmark = pytest.mark.slow

QUESTIONS = ("What is 318 + 264?", "Read notes.txt.", "What is 7 + 5?")


@pytest.fixture(scope="module")
def plain(stage):
    """An engine without MTP."""
    process = EngineProcess(
        EngineOptions(
            profile=stage.profile,
            redis_url=stage.store.url,
            log_file=Path(stage.layout.data) / "plain.log",
            model=stage.model,
            port=free_port(),
            engine_id="plain",
            mtp=False,
        )
    )
    with process:
        process.wait_until_serving()
        yield process


@pytest.fixture
async def only(store):
    """Leaves one engine that takes turns, for a time."""
    pool = EnginePool(store)

    @asynccontextmanager
    async def only(engine_id):
        others = [e for e in await pool.engines() if e.record.engine_id != engine_id]
        for other in others:
            await other.drain(draining=True)
        try:
            yield await pool.named(engine_id)
        finally:
            for other in others:
                await other.drain(draining=False)

    yield only
    await pool.close()


@pytest.fixture
async def session(torpor, registry, only, plain):
    async with only("engine"):
        made = await torpor.create(system=SYSTEM, tools=registry.specs())
        await torpor.turn(made.id, QUESTIONS[0])
    yield await torpor.get(made.id)
    await torpor.delete(made.id)


async def test_it_is_computed_again_there_and_says_so_and_is_resumed_there_from_then_on(
    torpor, session, only
):
    control = await torpor.fork(session.id)
    async with only("engine") as first:
        uninterrupted = await torpor.turn(control.id, QUESTIONS[1])
    async with only("plain") as other:
        assert other.record.fingerprint != first.record.fingerprint
        moved = await torpor.turn(session.id, QUESTIONS[1])
        assert moved.token_ids == uninterrupted.token_ids
        assert moved.usage.reused_tokens == 0
        assert moved.usage.recompute_reason.startswith(
            "the stored state is of another format (kv_payload_bytes: stored "
        )
        assert moved.boundary > session.boundary
        await other.client.flush()
        resumed = await torpor.resume(session.id, strict=True)
        assert resumed.restorable_tokens == moved.boundary
    # Both are there again: it stays with its state.
    again = await torpor.turn(session.id, QUESTIONS[2])
    assert again.usage.reused_tokens == moved.boundary
    async with only("engine"):
        assert (await torpor.turn(control.id, QUESTIONS[2])).token_ids == again.token_ids
    await torpor.delete(control.id)


async def test_a_strict_resume_is_refused_and_says_what_is_other(torpor, session, only):
    async with only("plain"):
        with pytest.raises(ApiError, match=r"another format .*draft: stored mtp:1, engine none"):
            await torpor.resume(session.id, strict=True)
    async with only("engine"):
        assert (await torpor.resume(session.id, strict=True)).restorable_tokens


async def test_what_is_before_it_moved_goes_on_where_its_state_is(torpor, session, only, store):
    async with only("plain"):
        moved = await torpor.turn(session.id, QUESTIONS[1])
    branch = await torpor.fork(session.id, snapshot=session.head)
    async with only("engine"):
        turn = await torpor.turn(branch.id, QUESTIONS[1])
    assert turn.usage.reused_tokens >= session.boundary
    assert turn.token_ids == moved.token_ids
    report = await store.check_integrity()
    assert report.problems == []
    await torpor.delete(branch.id)
