"""Sessions that are alike share what the device holds, also when one of them is deleted."""

import redis

from tests.runtime.talk import HISTORY, PAGE, say

SYSTEM = "You are Torpor. Nobody else is told this."


def expire_what_nobody_holds(url):
    with redis.Redis.from_url(url) as raw:
        for kind in ("kv", "state"):
            for key in raw.scan_iter(f"torpor:{kind}:*"):
                if raw.ttl(key) >= 0:
                    raw.delete(key)


async def test_what_a_deleted_session_had_is_stored_again_for_the_next(stage, torpor, registry):
    first = await torpor.create(system=SYSTEM, tools=registry.specs())
    expected = await say(torpor, first.id, *HISTORY)
    await torpor.delete(first.id)
    expire_what_nobody_holds(stage.store.url)
    second = await torpor.create(system=SYSTEM, tools=registry.specs())
    turns = await say(torpor, second.id, *HISTORY)
    assert [turn.token_ids for turn in turns] == [turn.token_ids for turn in expected]
    assert [turn.boundary for turn in turns] == [turn.boundary for turn in expected]
    assert turns[-1].usage.prompt_tokens - turns[-1].boundary < PAGE + 64
    assert all(turn.not_durable_because is None for turn in turns)
    await torpor.delete(second.id)
