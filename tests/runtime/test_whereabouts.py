"""`GET /v1/sessions/{id}/residency` says what the engine and the store say now."""

import secrets

import pytest

from agent_runtime.sdk import ApiError
from engine.client import EngineClient

from .talk import HISTORY, say


async def test_a_session_is_found_on_the_device_in_host_memory_and_in_the_store(
    stage, torpor, registry
):
    created = await torpor.create(system=f"You are {secrets.token_hex(8)}.", tools=registry.specs())
    empty = await torpor.whereabouts(created.id)
    assert (empty.residency, empty.head, empty.stored_tokens) == ("empty", None, 0)

    (*_, last) = await say(torpor, created.id, *HISTORY)
    found = await torpor.whereabouts(created.id)
    assert (found.residency, found.head) == ("stored", last.snapshot)
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
