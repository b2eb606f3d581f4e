"""Sessions, turns and forks over HTTP, against a real engine and store."""

import asyncio
import contextlib
import secrets

import pytest
import redis.asyncio

from agent_runtime.errors import InvalidRequest
from agent_runtime.sdk import ApiError, ApiUnreachable, Torpor
from agent_runtime.wire.events import Text
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnResult
from engine.client import EngineClient
from engine.demo_model import dialogues
from engine.launch import free_port
from engine.pool import EnginePool

from .talk import HISTORY, PAGE, QUESTIONS, TEXT, asked_in_fork, difference, say


async def test_a_turn_streams_text_then_its_result(torpor, session):
    events = [e async for e in torpor.stream(session.id, HISTORY[0], max_tokens=32)]
    (result,) = (event for event in events if isinstance(event, TurnResult))
    text = "".join(event.text for event in events if isinstance(event, Text))
    assert text.strip() == result.text
    assert result.snapshot == (await torpor.get(session.id)).head
    assert result.durable == "memory"
    assert result.usage.completion_tokens == len(result.token_ids) > 0


async def test_every_turn_commits_one_snapshot_onto_the_last(torpor, session):
    turns = await say(torpor, session.id, *HISTORY[:3])
    snapshots = await torpor.snapshots(session.id)
    assert [s.id for s in snapshots] == [turn.snapshot for turn in turns]
    assert [s.parent for s in snapshots] == [None, *(turn.snapshot for turn in turns[:-1])]
    known = [turn.usage.prompt_tokens + turn.usage.completion_tokens for turn in turns]
    assert [s.tokens for s in snapshots] == known
    assert all(s.boundary % PAGE == 0 and 0 <= s.tokens - s.boundary <= PAGE for s in snapshots)


async def test_a_session_that_begins_like_another_has_a_boundary_of_its_own(
    torpor, session, registry
):
    """Its first prompt ends inside pages that are stored already; its state still gets there."""
    await say(torpor, session.id, *HISTORY)
    other = await torpor.create(system="You are Torpor.", tools=registry.specs())
    turn = (await say(torpor, other.id, HISTORY[0]))[0]
    assert turn.usage.prompt_tokens - turn.boundary <= PAGE
    await torpor.delete(other.id)


async def test_what_expired_from_the_store_is_stored_again_for_the_next_that_begins_alike(
    stage, torpor, store, session, registry
):
    """The engine still holds a deleted session on its device, but the store has let go of it."""
    system = f"You are {secrets.token_hex(8)}."
    first = await torpor.create(system=system, tools=registry.specs())
    await say(torpor, first.id, *HISTORY)
    await torpor.delete(first.id)
    async with redis.asyncio.Redis.from_url(stage.store.url) as raw:
        async for key in raw.scan_iter("torpor:*:{*}"):
            if await raw.ttl(key) >= 0:
                await raw.delete(key)
    second = await torpor.create(system=system, tools=registry.specs())
    other_text = "\n".join(reversed(TEXT.splitlines()))
    *_, turn = await say(torpor, second.id, HISTORY[0], dialogues.read(other_text).user)
    # The second turn fills pages of its own; with them, all that they stand on is offered.
    assert turn.usage.prompt_tokens + turn.usage.completion_tokens - turn.boundary <= PAGE
    assert turn.not_durable_because is None
    assert (await store.check_integrity()).problems == []
    await torpor.delete(second.id)


async def test_the_engine_counts_what_it_stores(torpor, store, session):
    pool = EnginePool(store)
    engine = await pool.pick()
    before = (await engine.status())[0]
    await say(torpor, session.id, f"Repeat {secrets.token_hex(64)}")
    after = (await engine.status())[0]
    await pool.close()
    new_page_and_state = (engine.record.kv_object_bytes, engine.record.state_object_bytes)
    assert after["bytes_written"] - before["bytes_written"] >= sum(new_page_and_state)
    assert after["offload_failures"] == before["offload_failures"]


async def test_fsync_is_confirmed_when_asked_for(torpor, session):
    turn = (await say(torpor, session.id, HISTORY[0], durability="fsync"))[0]
    assert (turn.durable, turn.not_durable_because) == ("fsync", None)


async def test_a_level_that_the_store_cannot_confirm_is_reported(torpor, session):
    turn = (await say(torpor, session.id, HISTORY[0], durability="replicated:1"))[0]
    assert turn.snapshot is not None
    assert turn.durable == "memory"
    assert "replicated:1" in turn.not_durable_because


async def test_forks_share_every_page_and_go_different_ways(torpor, store, session):
    history = await say(torpor, session.id, *HISTORY)
    before = await store.check_integrity()
    forks = [await torpor.fork(session.id, snapshot=history[2].snapshot) for _ in range(3)]
    after = await store.check_integrity()
    assert (after.objects, after.object_bytes) == (before.objects, before.object_bytes)
    assert {fork.head for fork in forks} == {history[2].snapshot}
    for fork, colour in zip(forks, ["red", "green", "black"], strict=True):
        await say(torpor, fork.id, f"Mode: {colour}.")
    heads = {(await torpor.get(fork.id)).head for fork in forks}
    assert len(heads) == 3
    assert (await torpor.get(session.id)).head == history[-1].snapshot
    for fork in forks:
        await torpor.delete(fork.id)
    final = await store.check_integrity()
    assert (final.objects, final.problems) == (before.objects, [])


async def test_deleting_the_origin_leaves_its_forks_whole(torpor, store, registry):
    origin = await torpor.create(system="You are Torpor.", tools=registry.specs())
    await say(torpor, origin.id, *HISTORY[:3])
    expected = await asked_in_fork(torpor, origin.id)
    fork = await torpor.fork(origin.id)
    await torpor.delete(origin.id)
    assert difference(expected, await asked_in_fork(torpor, fork.id)).identical
    await torpor.delete(fork.id)
    with pytest.raises(ApiError) as gone:
        await torpor.get(fork.id)
    assert (gone.value.status, gone.value.code) == (404, "not_found")


async def test_one_writer_at_a_time(torpor, session):
    await say(torpor, session.id, HISTORY[0])
    both = await asyncio.gather(
        torpor.turn(session.id, HISTORY[3], max_tokens=48),
        torpor.turn(session.id, HISTORY[3], max_tokens=48),
        return_exceptions=True,
    )
    (refused,) = [one for one in both if isinstance(one, ApiError)]
    assert refused.code == "lease_held"
    assert len(await torpor.snapshots(session.id)) == 2


async def test_a_turn_on_an_unexpected_head_generates_nothing(torpor, session):
    turn = (await say(torpor, session.id, HISTORY[0]))[0]
    with pytest.raises(ApiError) as refused:
        await torpor.turn(session.id, "x", expected_head="snp-0000000000000000-0000000000000000")
    assert refused.value.code == "head_moved"
    assert (await torpor.get(session.id)).head == turn.snapshot
    await torpor.turn(session.id, HISTORY[1], expected_head=turn.snapshot, max_tokens=16)


async def test_a_client_that_goes_away_leaves_the_session_whole_and_free(torpor, session, stage):
    """Its turn is dropped, or, if it was that far already, committed; the lease is given back."""
    turn = (await say(torpor, session.id, HISTORY[0]))[0]
    async with Torpor(stage.runtime.url) as impatient:
        stream = impatient.stream(session.id, HISTORY[3], max_tokens=512)
        await anext(stream)
        await stream.aclose()
    again = None
    for _ in range(100):  # 10 s, well before the lease would expire by itself
        with contextlib.suppress(ApiError):
            again = await torpor.turn(session.id, HISTORY[1], max_tokens=16)
            break
        await asyncio.sleep(0.1)
    assert again is not None
    ids = [snapshot.id for snapshot in await torpor.snapshots(session.id)]
    assert (ids[0], ids[-1]) == (turn.snapshot, again.snapshot)
    assert ids[-2] == again.parent


async def test_a_flushed_engine_is_filled_from_the_store_and_says_so(torpor, session, stage):
    """The runtime believes the head is on the device; the answer says what really happened."""
    await say(torpor, session.id, *HISTORY)
    control = await asked_in_fork(torpor, session.id)
    client = EngineClient(stage.engine.url)
    await client.flush()
    await client.close()
    turn = (await say(torpor, session.id, QUESTIONS[0]))[0]
    assert turn.token_ids == control[0].token_ids
    assert turn.usage.reused_tokens < turn.usage.boundary_tokens
    assert "no longer held" in turn.usage.recompute_reason


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "surprise": 1}, "surprise"),
    ],
)
async def test_a_malformed_turn_is_a_problem_document(torpor, session, body, detail):
    response = await torpor._http.post(f"/v1/sessions/{session.id}/turns", json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "invalid_request"
    assert detail in response.json()["detail"]


@pytest.mark.parametrize("options", [{"durability": "eternal"}, {"max_tokens": 65536 * 2}])
async def test_what_cannot_be_served_is_refused_before_anything_is_generated(
    torpor, session, options
):
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        await torpor.turn(session.id, "x", **options)
    assert (await torpor.get(session.id)).head is None


async def test_more_than_the_context_is_refused(torpor, session):
    with pytest.raises(ApiError) as refused:
        await torpor.turn(session.id, "word " * 80_000, max_tokens=65536)
    assert refused.value.code == "context_full"


@pytest.mark.parametrize("session_id", ["nonsense", "ses-0000000000000000-0000000000000000"])
async def test_an_unknown_session_is_a_clear_error(torpor, session_id):
    for call in (torpor.get, torpor.suspend, torpor.resume, torpor.fork, torpor.delete):
        with pytest.raises(ApiError) as refused:
            await call(session_id)
        assert refused.value.code in ("not_found", "invalid_id")


async def test_sampling_that_the_engine_does_not_do_is_told(torpor, session):
    greedy = await torpor.turn(session.id, "Tick.", max_tokens=4)
    assert greedy.problems == []
    hot = await torpor.turn(session.id, "Tick.", max_tokens=4, temperature=1.5)
    assert "only the first token was sampled" in hot.problems[-1]


async def test_a_role_that_cannot_be_appended_is_refused(torpor, session):
    with pytest.raises(ApiError) as refused:
        await torpor.turn(session.id, [Message(role="system", content="x")])
    assert refused.value.code == "bad_request"


async def test_a_runtime_that_is_not_there_is_said_to_be_unreachable():
    async with Torpor(f"http://127.0.0.1:{free_port()}") as nobody:
        with pytest.raises(ApiUnreachable, match="does not answer"):
            await nobody.health()
