"""The head of a session moves only with the lease, from the expected parent, to what is stored."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import replace

import pytest
import redis
from writer import FINGERPRINT, PAGE, RANKS, TENANT, Writer, objects_of

from state_store.errors import (
    HeadMoved,
    InvalidDraft,
    InvalidDurability,
    InvalidId,
    LeaseHeld,
    LeaseLost,
    NotFound,
    ObjectsMissing,
    StoreRefused,
)
from state_store.layout import ObjectRef
from state_store.objects import ObjectClient
from state_store.store import StateStore


async def commit(writer, draft, lease):
    return await writer.store.commit(draft, lease=lease, durability="memory")


async def head_of(writer, session_id):
    return (await writer.store.session(session_id)).head


def held_and_expiring(raw, prefix):
    """How many objects stay for good, and how many expire."""
    ttls = [raw.ttl(key) for kind in ("kv", "state") for key in raw.keys(f"{prefix}:{kind}:*")]
    return sum(ttl == -1 for ttl in ttls), sum(ttl > 0 for ttl in ttls)


async def test_a_new_session_is_empty_and_listed(writer):
    session = await writer.store.create_session(
        tenant=TENANT, fingerprint=FINGERPRINT, labels={"a": "b"}, meta={"n": [1, 2]}
    )
    assert session.head is None
    assert (session.labels, session.body.meta) == ({"a": "b"}, {"n": [1, 2]})
    assert await writer.store.session(session.id) == session
    assert await writer.store.sessions(TENANT) == [session]
    assert await writer.store.sessions("another") == []


async def test_sessions_are_listed_newest_first(writer):
    made = [(await writer.session()).id for _ in range(3)]
    assert [session.id for session in await writer.store.sessions(TENANT)] == made[::-1]


async def test_a_commit_becomes_the_head_and_its_tokens_are_the_history(writer):
    session = await writer.session([1, 2, 3, 4, 5])
    first = session.head
    second = await writer.turn(session.id, [6, 7, 8, 2**32 - 1])
    assert await head_of(writer, session.id) == second.snapshot.id
    assert await writer.history(session.id) == [1, 2, 3, 4, 5, 6, 7, 8, 2**32 - 1]
    assert [s.id for s in await writer.store.ancestors(second.snapshot.id)] == [
        first,
        second.snapshot.id,
    ]
    assert await writer.store.snapshot(second.snapshot.id) == second.snapshot
    assert second.durability == "memory"
    assert second.shortfall is None
    assert await writer.problems() == []


async def test_a_long_history_is_walked_to_its_root(writer, monkeypatch):
    monkeypatch.setattr("state_store.snapshots._WALK", 3)
    session = await writer.session(*([n] for n in range(8)))
    assert await writer.history(session.id) == list(range(8))
    history = await writer.store.ancestors(session.head)
    assert [snapshot.total_tokens for snapshot in history] == list(range(1, 9))


async def test_a_commit_pins_exactly_its_objects_on_every_rank(writer, raw, prefix):
    session = await writer.session()
    draft = await writer.draft(session.id, range(9))
    writer.put(draft)
    assert held_and_expiring(raw, prefix) == (0, 6)
    await commit(writer, draft, await writer.lease(session.id))
    assert held_and_expiring(raw, prefix) == (6, 0)


async def test_the_boundary_is_stored_until_a_rank_loses_its_state(writer, raw):
    session = await writer.session([1, 2, 3])
    assert await writer.store.residency(session.id) == "tokens"
    head = (await writer.turn(session.id, [4])).snapshot
    assert await writer.store.residency(session.id) == "stored"
    raw.delete(writer.names()[1].key(ObjectRef("state", head.boundary_hash)))
    assert await writer.store.residency(session.id) == "lost"


async def test_a_session_can_be_resumed_up_to_what_every_rank_stored(writer, raw):
    session = await writer.session()
    draft = replace(await writer.draft(session.id, range(4 * PAGE)), checkpoints=(1, 2))
    writer.put(draft)

    async def boundaries():
        return await writer.store.stored_boundaries(FINGERPRINT, RANKS, draft.page_hashes)

    assert await boundaries() == (1, 2, 4)
    raw.delete(writer.names()[1].key(ObjectRef("state", draft.page_hashes[0])))
    assert await boundaries() == (2, 4)
    raw.delete(writer.names()[0].key(ObjectRef("kv", draft.page_hashes[2])))
    assert await boundaries() == (2,)
    raw.delete(writer.names()[1].key(ObjectRef("kv", draft.page_hashes[0])))
    assert await boundaries() == ()
    assert await writer.store.stored_boundaries(FINGERPRINT, RANKS, []) == ()


async def test_only_one_writer_holds_a_session(writer):
    session = await writer.session()
    lease = await writer.lease(session.id)
    with pytest.raises(LeaseHeld, match="writer"):
        await writer.store.acquire(session.id, ttl=30, owner="second")
    await writer.store.release(lease)
    assert (await writer.store.acquire(session.id, ttl=30, owner="second")).fence > lease.fence


async def test_a_lease_that_is_renewed_does_not_expire(writer):
    session = await writer.session()
    lease = await writer.lease(session.id, ttl=0.2)
    for _ in range(4):
        await asyncio.sleep(0.1)
        await writer.store.renew(lease, ttl=0.2)
    with pytest.raises(LeaseHeld):
        await writer.lease(session.id)


async def test_a_lease_that_expired_commits_nothing(writer, raw, prefix):
    session = await writer.session()
    draft = await writer.draft(session.id, range(4))
    writer.put(draft)
    lease = await writer.lease(session.id, ttl=0.02)
    await asyncio.sleep(0.05)
    with pytest.raises(LeaseLost, match="nobody"):
        await commit(writer, draft, lease)
    with pytest.raises(LeaseLost):
        await writer.store.renew(lease, ttl=30)
    assert await head_of(writer, session.id) is None
    assert held_and_expiring(raw, prefix) == (0, 4)
    assert await writer.problems() == []


async def test_a_writer_that_was_taken_over_is_fenced_off(writer):
    session = await writer.session()
    draft = await writer.draft(session.id, range(4))
    writer.put(draft)
    late = await writer.lease(session.id, ttl=0.02)
    await asyncio.sleep(0.05)
    new = await writer.store.acquire(session.id, ttl=30, owner="new")
    with pytest.raises(LeaseLost, match="new"):
        await commit(writer, draft, late)
    await writer.store.release(late)  # giving back what is lost takes nothing from the new one
    await commit(writer, draft, new)
    assert await writer.problems() == []


async def test_a_lease_on_one_session_does_not_commit_to_another(writer):
    first, second = await writer.session(), await writer.session()
    lease, other = await writer.lease(first.id), await writer.lease(second.id)
    assert lease.fence == other.fence
    draft = await writer.draft(second.id, range(4))
    writer.put(draft)
    with pytest.raises(LeaseLost):
        await commit(writer, draft, lease)
    assert await head_of(writer, second.id) is None


async def test_a_draft_from_an_old_head_is_refused(writer, raw, prefix):
    session = await writer.session([1, 2, 3, 4])
    stale = await writer.draft(session.id, [5, 6, 7, 8])
    head = (await writer.turn(session.id, [9] * 4)).snapshot.id
    writer.put(stale)
    with pytest.raises(HeadMoved, match=head):
        await commit(writer, stale, await writer.lease(session.id))
    assert await head_of(writer, session.id) == head
    assert held_and_expiring(raw, prefix) == (8, 4)
    assert await writer.problems() == []


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_missing_object_on_any_rank_commits_nothing_and_pins_nothing(
    writer, raw, prefix, which, rank
):
    session = await writer.session()
    draft = await writer.draft(session.id, range(8))
    writer.put(draft)
    gone = objects_of(draft)[which]
    raw.delete(writer.names()[rank].key(gone))
    with pytest.raises(ObjectsMissing) as refused:
        await commit(writer, draft, await writer.lease(session.id))
    assert refused.value.missing == (gone,)
    assert await head_of(writer, session.id) is None
    assert held_and_expiring(raw, prefix) == (0, 5)
    assert raw.keys(f"{prefix}:pins:*") == []
    assert await writer.problems() == []


async def test_objects_left_by_a_refused_commit_can_be_committed_after_repair(writer, raw):
    session = await writer.session()
    draft = await writer.draft(session.id, range(8))
    writer.put(draft)
    raw.delete(writer.names()[0].key(objects_of(draft)[0]))
    lease = await writer.lease(session.id)
    with pytest.raises(ObjectsMissing):
        await commit(writer, draft, lease)
    writer.put(draft)
    await commit(writer, draft, lease)
    assert await writer.problems() == []


async def test_committing_again_changes_nothing(writer):
    session = await writer.session([1, 2, 3, 4])
    draft = await writer.draft(session.id, range(8))
    writer.put(draft)
    lease = await writer.lease(session.id)
    first = await commit(writer, draft, lease)
    again = await commit(writer, draft, lease)
    assert again == first
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.problems) == (2, [])


async def test_equal_snapshots_of_two_forks_are_one_and_outlive_either_fork(writer):
    for first_to_go in (0, 1):
        session = await writer.session([1, 2, 3, 4])
        branch = await writer.store.fork(session.id)
        ids = [session.id, branch.id]
        commits = [await writer.turn(one, [5, 6, 7, 8, 9]) for one in ids]
        assert commits[0].snapshot == commits[1].snapshot
        assert await writer.store.snapshot(commits[1].snapshot.id) == commits[1].snapshot
        assert (await writer.store.check_integrity()).snapshots == 2
        await writer.store.delete_session(ids[first_to_go])
        assert await writer.history(ids[1 - first_to_go]) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert await writer.problems() == []
        await writer.store.delete_session(ids[1 - first_to_go])
        report = await writer.store.check_integrity()
        assert (report.sessions, report.snapshots, report.problems) == (0, 0, [])


@pytest.mark.parametrize(
    "contradiction",
    [
        {"boundary_hash": "00" * 32},
        {"boundary_hash": None},
        {"boundary": 0},
        {"total_tokens": 7},
        {"boundary": 12},
    ],
)
async def test_a_draft_that_contradicts_itself_is_refused(writer, contradiction):
    session = await writer.session()
    draft = await writer.draft(session.id, range(8))
    with pytest.raises(ValueError, match=r"."):
        replace(draft, **contradiction)


async def test_a_deleted_session_is_gone_for_its_writer_too(writer, raw, prefix):
    session = await writer.session()
    draft = await writer.draft(session.id, range(4))
    writer.put(draft)
    lease = await writer.lease(session.id)
    await writer.store.delete_session(session.id)
    with pytest.raises(NotFound):
        await commit(writer, draft, lease)
    for call in (
        writer.store.session(session.id),
        writer.store.delete_session(session.id),
        writer.store.fork(session.id),
        writer.store.acquire(session.id, ttl=1, owner="x"),
    ):
        with pytest.raises(NotFound):
            await call
    assert held_and_expiring(raw, prefix) == (0, 4)
    assert await writer.problems() == []


async def test_an_unknown_snapshot_is_not_found(writer):
    session = await writer.session([1])
    unknown = session.head[:-1] + ("0" if session.head[-1] != "0" else "1")
    for call in (
        writer.store.snapshot(unknown),
        writer.store.ancestors(unknown),
        writer.store.tokens(unknown),
    ):
        with pytest.raises(NotFound):
            await call


@pytest.mark.parametrize("bad", ["", "ses-1", "ses-" + "g" * 16 + "-" + "0" * 16, "x\n"])
async def test_a_text_that_is_no_id_is_refused(writer, bad):
    for call in (writer.store.session(bad), writer.store.snapshot(bad)):
        with pytest.raises(InvalidId):
            await call


@pytest.mark.parametrize(
    "level", ["", "disk", "replicated", "replicated:0", "replicated:x", "fsync:1"]
)
async def test_an_unknown_durability_level_is_refused_before_anything_is_written(writer, level):
    session = await writer.session()
    draft = await writer.draft(session.id, [1])
    lease = await writer.lease(session.id)
    with pytest.raises(InvalidDurability):
        await writer.store.commit(draft, lease=lease, durability=level)
    assert await head_of(writer, session.id) is None


async def test_a_tenants_salt_is_made_once_and_is_its_own(writer, server, prefix):
    salt = (await writer.store.tenant("one")).salt
    async with await StateStore.connect(server.url, prefix=prefix) as other:
        assert (await other.tenant("one")).salt == salt
        assert (await other.tenant("two")).salt != salt


async def test_a_full_store_refuses_commits_but_sessions_can_be_deleted(own_server):
    async with await StateStore.connect(own_server.url, prefix="p") as store:
        client = ObjectClient(own_server.url, timeout=5.0)
        writer = Writer(store, client, "p")
        kept, doomed = await writer.session([1, 2, 3, 4]), await writer.session([5, 6, 7, 8])
        draft = await writer.draft(kept.id, [9] * 4)
        writer.put(draft)
        lease = await writer.lease(kept.id)
        with redis.Redis.from_url(own_server.url) as raw:
            raw.config_set("maxmemory", 1)
            with pytest.raises(StoreRefused, match="maxmemory"):
                await store.commit(draft, lease=lease, durability="memory")
            await store.delete_session(doomed.id)
            assert await writer.problems() == []
            assert (await store.check_integrity()).sessions == 1
            raw.config_set("maxmemory", 0)
        await store.commit(draft, lease=lease, durability="memory")
        assert await writer.problems() == []
        client.close()


def test_token_ids_are_stored_as_32_bits():
    assert array("I").itemsize == 4


async def test_a_made_up_lease_is_worth_nothing(writer):
    session = await writer.session()
    draft = await writer.draft(session.id, [1])
    lease = await writer.lease(session.id)
    with pytest.raises(LeaseLost):
        await commit(writer, draft, replace(lease, fence=lease.fence + 1))


async def test_a_snapshot_holds_the_states_at_its_checkpoints(writer, raw):
    session = await writer.session()
    draft = replace(await writer.draft(session.id, range(5 * PAGE)), checkpoints=(1, 3))
    writer.put(draft)
    snapshot = (await commit(writer, draft, await writer.lease(session.id))).snapshot
    assert snapshot.boundaries(PAGE) == [PAGE, 3 * PAGE, 5 * PAGE]
    assert await writer.store.snapshot(snapshot.id) == snapshot
    states = [ref.page_hash for ref in snapshot.objects if ref.kind == "state"]
    assert states == [draft.page_hashes[count - 1] for count in (1, 3, 5)]
    assert held_and_expiring(raw, writer.prefix)[1] == 0
    assert await writer.problems() == []


async def test_a_checkpoint_without_its_state_is_not_committed(writer):
    session = await writer.session()
    draft = await writer.draft(session.id, range(3 * PAGE))
    writer.put(draft)
    with pytest.raises(ObjectsMissing) as missing:
        await commit(writer, replace(draft, checkpoints=(2,)), await writer.lease(session.id))
    assert missing.value.missing == (ObjectRef("state", draft.page_hashes[1]),)
    assert await head_of(writer, session.id) is None


@pytest.mark.parametrize("checkpoints", [(0,), (2, 1), (1, 1), (3,), (-1,), (1, 4)])
async def test_checkpoints_that_are_not_ends_of_pages_inside_are_refused(writer, checkpoints):
    draft = await writer.draft((await writer.session()).id, range(3 * PAGE))
    with pytest.raises(InvalidDraft, match="checkpoints"):
        replace(draft, checkpoints=checkpoints)
