"""`GET /v1/sessions/{id}/whereabouts` says what the engine and the store say now."""

import secrets

import pytest

from agent_runtime.sdk import ApiError
from engine.client import EngineClient
from engine.demo_model import dialogues

from .talk import HISTORY, PAGE, asked_in_fork, say


async def test_a_session_is_found_on_the_device_in_host_memory_and_in_the_store(
    stage, torpor, registry
):
    created = await torpor.create(system=f"You are {secrets.token_hex(8)}.", tools=registry.specs())
    empty = await torpor.whereabouts(created.id)
    assert (empty.in_store, empty.head, empty.stored_tokens) == ("empty", None, 0)

    (*_, last) = await say(torpor, created.id, *HISTORY)
    found = await torpor.whereabouts(created.id)
    assert (found.in_store, found.head) == ("stored", last.snapshot)
    assert (await torpor.get(created.id)).residency == "device"
    assert found.tokens > found.boundary == last.boundary > 0
    assert (found.device_tokens, found.stored_tokens) == (last.boundary, last.boundary)
    assert found.staged_tokens == 0
    assert (found.engine, found.held_for, found.reason) == ("engine", None, None)

    await torpor.suspend(created.id)
    client = EngineClient(stage.engine.url)
    await client.flush()
    await client.close()
    found = await torpor.whereabouts(created.id)
    assert (found.device_tokens, found.stored_tokens) == (0, last.boundary)

    await torpor.resume(created.id)
    found = await torpor.whereabouts(created.id)
    assert (found.device_tokens, found.staged_tokens) == (0, last.boundary)
    await torpor.delete(created.id)
    with pytest.raises(ApiError) as missing:
        await torpor.whereabouts(created.id)
    assert missing.value.code == "not_found"


async def test_what_a_turn_restored_stays_on_the_device_however_little_it_adds(
    torpor, registry, flush
):
    created = await torpor.create(system=f"You are {secrets.token_hex(8)}.", tools=registry.specs())
    (*_, last) = await say(torpor, created.id, *HISTORY)
    control = await asked_in_fork(torpor, created.id)
    await torpor.suspend(created.id)
    await flush()
    await torpor.resume(created.id, strict=True)

    fork = (await torpor.fork(created.id)).id
    usage = (await torpor.turn(fork, dialogues.tick().user, max_tokens=2)).usage
    assert usage.reused_tokens == last.boundary
    assert usage.prompt_tokens + usage.completion_tokens < last.boundary + PAGE
    found = await torpor.whereabouts(fork)
    assert (found.boundary, found.device_tokens) == (last.boundary, last.boundary)
    assert found.loaded_bytes > 0

    again = await torpor.turn(fork, dialogues.tick().user, max_tokens=2)
    assert again.usage.reused_tokens >= last.boundary
    assert (await torpor.whereabouts(fork)).loaded_bytes == found.loaded_bytes

    answers = await asked_in_fork(torpor, created.id)  # from what stayed there
    for answer, expected in zip(answers, control, strict=True):
        assert (answer.token_ids, answer.logprobs) == (expected.token_ids, expected.logprobs)
    await torpor.delete(fork)
    await torpor.delete(created.id)
