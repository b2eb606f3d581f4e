"""Scripts that break off in the middle, and snapshots that are wrongly dead: nothing alive goes."""

from __future__ import annotations

import pytest
import redis
from writer import Writer

from state_store.errors import StoreRefused
from state_store.layout import LineageKeys, lineage_of
from state_store.objects import ObjectClient
from state_store.store import StateStore


@pytest.fixture
def admin(own_server):
    with redis.Redis.from_url(own_server.url) as client:
        client.execute_command("ACL", "SETUSER", "torpor", "on", ">pass", "~*", "+@all")
        yield client


@pytest.fixture
async def limited(own_server, admin):
    """A writer whose rights the test takes away."""
    url = f"unix://torpor:pass@{own_server.url.removeprefix('unix://')}"
    objects = ObjectClient(url, timeout=5.0)
    async with await StateStore.connect(url) as store:
        yield Writer(store, objects, "torpor")
    objects.close()


async def held(writer: Writer, raw: redis.Redis, session_id: str) -> bool:
    """Whether all that a session names is pinned and stays."""
    head = (await writer.store.session(session_id)).head
    return all(
        raw.scard(names.pins_key(ref)) and raw.ttl(names.key(ref)) == -1
        for snapshot in await writer.store.ancestors(head)
        for ref in snapshot.objects
        for names in writer.names()
    )


@pytest.mark.parametrize("again_first", [False, True])
@pytest.mark.parametrize("before", [[], [[1, 2, 3, 4]]])
@pytest.mark.parametrize("right", ["set", "hset", "hincrby", "hmget", "hdel", "hexists"])
async def test_a_commit_that_breaks_off_is_made_or_leaves_nothing_that_stays(
    limited, admin, right, before, again_first
):
    session = await limited.session(*before)
    draft = await limited.draft(session.id, [5, 6, 7, 8])
    limited.put(draft)
    lease = await limited.lease(session.id)
    admin.execute_command("ACL", "SETUSER", "torpor", f"-{right}")
    with pytest.raises(StoreRefused, match=right):
        await limited.store.commit(draft, lease=lease, durability="memory")
    admin.execute_command("ACL", "SETUSER", "torpor", f"+{right}")
    store = limited.store
    if not again_first:
        await store.recover(older_than=0)
        found = {problem.kind for problem in (await store.check_integrity()).problems}
        assert found <= {"references", "stray-log", "totals", "tree"}  # it holds too much at worst
        assert (await store.check_integrity(repair=True)).problems == []
    limited.put(draft)
    await store.commit(draft, lease=lease, durability="memory")
    for _ in range(2):
        await store.recover(older_than=0)
        assert (await store.check_integrity(repair=True)).problems == []
    assert await limited.history(session.id) == [*(t for turn in before for t in turn), 5, 6, 7, 8]
    assert await held(limited, admin, session.id)
    await store.release(lease)
    await store.delete_session(session.id)
    assert (await store.check_integrity()).problems == []
    assert admin.keys("torpor:pins:*") == []


@pytest.mark.parametrize("again_first", [False, True])
@pytest.mark.parametrize("right", ["set", "hset", "hincrby", "hmget", "hdel", "hexists"])
async def test_a_commit_of_two_that_breaks_off_moves_the_head_to_the_second_or_not_at_all(
    limited, admin, right, again_first
):
    session = await limited.session([1, 2, 3, 4], [5, 6, 7, 8])
    first = await limited.instead_of(session, 1, [9] * 4)
    draft = await limited.going_on(first, [10] * 4)
    lease = await limited.lease(session.id)
    store = limited.store
    for one in draft.chain:
        limited.put(one)
    admin.execute_command("ACL", "SETUSER", "torpor", f"-{right}")
    with pytest.raises(StoreRefused, match=right):
        await store.commit(draft, lease=lease, durability="memory")
    admin.execute_command("ACL", "SETUSER", "torpor", f"+{right}")
    whole = [1, 2, 3, 4, *[9] * 4, *[10] * 4]
    assert await limited.history(session.id) in ([1, 2, 3, 4, 5, 6, 7, 8], whole)
    if not again_first:
        await store.recover(older_than=0)
        assert (await store.check_integrity(repair=True)).problems == []
    for one in draft.chain:
        limited.put(one)
    await store.commit(draft, lease=lease, durability="memory")
    for _ in range(2):
        await store.recover(older_than=0)
        assert (await store.check_integrity(repair=True)).problems == []
    assert await limited.history(session.id) == whole
    assert await held(limited, admin, session.id)


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_live_snapshot_that_is_wrongly_dead_is_not_unwound(writer, raw, prefix, at):
    session = await writer.session([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12])
    history = await writer.store.ancestors(session.head)
    keys = LineageKeys(prefix, lineage_of(session.id))
    raw.sadd(keys.dead, history[at].id)
    assert (await writer.store.recover(older_than=0)).snapshots == 0
    assert raw.exists(keys.dead) == 0
    assert await writer.problems() == []
    assert await writer.history(session.id) == list(range(1, 13))
    assert await held(writer, raw, session.id)


async def test_one_that_comes_alive_while_it_is_unwound_keeps_its_record(
    writer, raw, prefix, store
):
    """Its pins are gone by then, and repair holds its objects again."""
    session = await writer.session([1, 2, 3, 4], [5, 6, 7, 8])
    keys = LineageKeys(prefix, lineage_of(session.id))
    raw.sadd(keys.dead, session.head)
    pin = raw.hget(keys.snapshot(session.head), "pin")
    buried = await store._control.run(
        "bury",
        [keys.snapshot(session.head), keys.tokens(session.head), keys.refs, keys.dead, keys.usage],
        session.head,
        pin,
    )
    assert buried == [b"alive"]
    assert raw.exists(keys.dead) == 0
    assert await writer.problems() == []
    assert await writer.history(session.id) == list(range(1, 9))
