"""Sessions go back in their history, and branch at any point of it."""

from __future__ import annotations

import itertools

import pytest
import redis
from writer import RANKS, Trips, Writer

from state_store.errors import HeadMoved, LeaseLost, NotFound
from state_store.objects import ObjectClient
from state_store.store import StateStore

TURNS = ([1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12])  # 1, 2 and 3 pages, a state each


async def ids_of(writer, session) -> list[str]:
    return [snapshot.id for snapshot in await writer.store.ancestors(session.head)]


# ---- rewind -----------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
async def test_a_session_goes_back_to_any_of_its_snapshots_and_lets_the_rest_go(writer, kept):
    session = await writer.session(*TURNS)
    ids = await ids_of(writer, session)
    target = ids[kept - 1] if kept else None
    moved = await writer.rewind(session.id, target)
    assert moved == await writer.store.session(session.id)
    assert moved.head == target
    assert await writer.history(session.id) == list(itertools.chain(*TURNS[:kept]))
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.objects) == (kept, 2 * kept * RANKS)
    assert report.problems == []
    for gone in ids[kept:]:
        with pytest.raises(NotFound):
            await writer.store.snapshot(gone)


async def test_a_session_goes_on_from_where_it_went_back_to(writer):
    session = await writer.session(*TURNS)
    first = (await ids_of(writer, session))[0]
    await writer.rewind(session.id, first)
    await writer.turn(session.id, [20] * 4)
    assert await writer.history(session.id) == [1, 2, 3, 4, 5, 20, 20, 20, 20]
    await writer.rewind(session.id, None)
    await writer.turn(session.id, [30] * 4)
    assert await writer.history(session.id) == [30] * 4
    assert await writer.problems() == []


async def test_the_same_turn_can_be_committed_again_after_going_back(writer):
    session = await writer.session(*TURNS)
    ids = await ids_of(writer, session)
    await writer.rewind(session.id, ids[1])
    assert (await writer.turn(session.id, TURNS[2])).snapshot.id == session.head
    assert await writer.problems() == []


async def test_what_a_fork_reaches_stays_when_its_parent_goes_back(writer):
    session = await writer.session(*TURNS)
    branch = await writer.store.fork(session.id)
    await writer.rewind(session.id, None)
    assert await writer.history(branch.id) == list(range(1, 13))
    assert (await writer.store.check_integrity()).snapshots == 3
    await writer.rewind(branch.id, None)
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.objects, report.problems) == (0, 0, [])


async def test_going_back_again_changes_nothing(writer):
    session = await writer.session(*TURNS)
    first = (await ids_of(writer, session))[0]
    once = await writer.rewind(session.id, first)
    assert await writer.rewind(session.id, first) == once
    empty = await writer.rewind(session.id, None)
    assert await writer.rewind(session.id, None) == empty
    assert await writer.problems() == []


async def test_a_head_does_not_move_to_what_is_not_in_its_own_history(writer):
    session = await writer.session(*TURNS)
    branch = await writer.store.fork(session.id)
    ahead = (await writer.turn(branch.id, [1])).snapshot.id
    foreign = (await writer.session([1])).head
    for other in (ahead, foreign, session.id):
        with pytest.raises(NotFound, match=f"{other} is not in the history"):
            await writer.rewind(session.id, other)
    await writer.store.delete_session(branch.id)
    with pytest.raises(NotFound, match="is not in the history"):
        await writer.rewind(session.id, ahead)
    assert (await writer.store.session(session.id)).head == session.head
    assert await writer.problems() == []


async def test_only_the_holder_of_the_lease_moves_a_head_back(writer):
    session, other = await writer.session(*TURNS), await writer.session()
    lease = await writer.lease(session.id)
    await writer.store.release(lease)
    with pytest.raises(LeaseLost, match="nobody holds it"):
        await writer.store.rewind(session.id, None, lease=lease)
    await writer.lease(session.id)
    with pytest.raises(LeaseLost, match="taken over"):
        await writer.store.rewind(session.id, None, lease=lease)
    with pytest.raises(LeaseLost, match=f"a lease on {other.id}"):
        await writer.store.rewind(session.id, None, lease=await writer.lease(other.id))
    assert (await writer.store.session(session.id)).head == session.head


async def test_a_head_that_moves_meanwhile_is_not_moved_back(writer, server, prefix):
    session = await writer.session(*TURNS)
    first = (await ids_of(writer, session))[0]
    draft = await writer.draft(session.id, [1] * 4)
    writer.put(draft)
    lease = await writer.lease(session.id)
    async with await StateStore.connect(server.url, prefix=prefix) as store:
        trips = Trips(store)

        async def commit():
            await writer.store.commit(draft, lease=lease, durability="memory")

        trips.between = (3, commit)  # before the script
        with pytest.raises(HeadMoved, match="no longer"):
            await store.rewind(session.id, first, lease=lease)
        assert trips.between is None
    assert await writer.history(session.id) == [*range(1, 13), 1, 1, 1, 1]
    assert await writer.problems() == []


async def test_a_deleted_session_does_not_go_back(writer):
    session = await writer.session(*TURNS)
    lease = await writer.lease(session.id)
    await writer.store.delete_session(session.id)
    with pytest.raises(NotFound):
        await writer.store.rewind(session.id, None, lease=lease)


async def test_a_full_store_can_be_relieved_by_going_back(own_server):
    client = ObjectClient(own_server.url, timeout=5.0)
    async with await StateStore.connect(own_server.url, prefix="p") as store:
        writer = Writer(store, client, "p")
        session = await writer.session(*TURNS)
        ids = await ids_of(writer, session)
        lease = await writer.lease(session.id)
        with redis.Redis.from_url(own_server.url) as raw:
            raw.config_set("maxmemory", 1)
            await store.rewind(session.id, ids[0], lease=lease)
            raw.config_set("maxmemory", 0)
        assert await writer.history(session.id) == TURNS[0]
        assert await writer.problems() == []
    client.close()


# ---- branch at --------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "kept"), [(0, 0), (4, 0), (5, 1), (7, 1), (8, 2), (11, 2), (12, 3), (1 << 40, 3)]
)
async def test_a_branch_begins_at_the_last_snapshot_within_so_many_tokens(writer, tokens, kept):
    session = await writer.session(*TURNS)
    branch = await writer.store.branch_at(session.id, tokens=tokens, labels={"a": "b"})
    assert await writer.history(branch.id) == list(itertools.chain(*TURNS[:kept]))
    assert branch.body.forked_from == session.id
    await writer.turn(branch.id, [40] * 5)
    assert await writer.problems() == []


async def test_an_empty_session_can_be_branched_and_no_history_has_fewer_than_no_tokens(writer):
    session = await writer.session()
    assert (await writer.store.branch_at(session.id, tokens=10)).head is None
    with pytest.raises(NotFound, match="-1 tokens"):
        await writer.store.branch_at(session.id, tokens=-1)


# ---- forks of forks -----------------------------------------------------------


async def test_a_fork_of_a_fork_of_a_fork_outlives_them_all(writer):
    session = await writer.session(*TURNS)
    line = [session]
    for turn in ([20] * 3, [21] * 3, [22] * 3):
        line.append(await writer.store.fork(line[-1].id))
        await writer.turn(line[-1].id, turn)
    expected = await writer.history(line[-1].id)
    for older in line[:-1]:
        await writer.store.delete_session(older.id)
    assert await writer.history(line[-1].id) == expected
    assert line[-1].body.forked_from == line[-2].id
    assert await writer.problems() == []


async def test_a_deleted_sessions_snapshot_is_forked_from_another_session_while_it_is_held(writer):
    session = await writer.session(*TURNS)
    keeper = await writer.store.fork(session.id)
    await writer.store.delete_session(session.id)
    with pytest.raises(NotFound, match=f"no session {session.id}"):
        await writer.store.fork(session.id, snapshot_id=session.head)
    middle = (await ids_of(writer, keeper))[1]
    branch = await writer.store.fork(keeper.id, snapshot_id=middle)
    assert await writer.history(branch.id) == list(range(1, 9))
    await writer.store.delete_session(keeper.id)
    with pytest.raises(NotFound, match=f"no snapshot {session.head}"):
        await writer.store.fork(branch.id, snapshot_id=session.head)
    assert await writer.problems() == []
