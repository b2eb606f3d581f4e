"""Forks cost nothing, share everything, and outlive what they were forked from."""

from __future__ import annotations

import itertools

import pytest
from writer import RANKS, TENANT, Trips

from state_store.errors import NotFound

TURNS = ([1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12])  # 1, 2 and 3 pages, a state each


async def test_forks_share_every_page_with_their_parent(writer, raw, prefix):
    session = await writer.session(*TURNS)
    keys = set(raw.keys(f"{prefix}:kv:*") + raw.keys(f"{prefix}:state:*"))
    for _ in range(20):
        branch = await writer.store.fork(session.id)
        assert branch.head == session.head
        assert await writer.history(branch.id) == list(range(1, 13))
    assert set(raw.keys(f"{prefix}:kv:*") + raw.keys(f"{prefix}:state:*")) == keys
    report = await writer.store.check_integrity()
    assert (report.sessions, report.snapshots, report.objects) == (21, 3, 6 * RANKS)
    assert report.problems == []


async def test_a_fork_takes_as_many_round_trips_at_any_length(writer):
    costs = set()
    short, long = await writer.session([1]), await writer.session(*([n] * 9 for n in range(12)))
    trips = Trips(writer.store)
    for session in (short, long):
        await writer.store.fork(session.id)  # the script is known from here on
        trips.count = 0
        await writer.store.fork(session.id)
        costs.add(trips.count)
    assert len(costs) == 1


async def test_a_fork_has_an_identity_of_its_own(writer):
    session = await writer.session(*TURNS)
    branch = await writer.store.fork(session.id, labels={"try": "1"}, meta={"x": 1})
    assert branch.id != session.id
    assert branch.body.forked_from == session.id
    assert (branch.labels, branch.body.meta) == ({"try": "1"}, {"x": 1})
    assert branch.body.tenant == TENANT
    assert branch in await writer.store.sessions(TENANT)


async def test_branches_go_on_without_seeing_each_other(writer):
    session = await writer.session(*TURNS)
    branch = await writer.store.fork(session.id)
    await writer.turn(session.id, [20, 21])
    await writer.turn(branch.id, [30])
    assert await writer.history(session.id) == [*range(1, 13), 20, 21]
    assert await writer.history(branch.id) == [*range(1, 13), 30]


async def test_a_fork_from_an_earlier_turn_has_the_history_up_to_there(writer):
    session = await writer.session(*TURNS)
    for snapshot in await writer.store.ancestors(session.head):
        branch = await writer.store.fork(session.id, snapshot_id=snapshot.id)
        assert await writer.history(branch.id) == list(range(1, snapshot.total_tokens + 1))
        await writer.turn(branch.id, [99] * 4)
    assert await writer.problems() == []


async def test_a_fork_of_an_empty_session_is_empty(writer):
    branch = await writer.store.fork((await writer.session()).id)
    assert branch.head is None
    await writer.turn(branch.id, [1, 2, 3, 4])
    assert await writer.problems() == []


async def test_a_snapshot_of_another_lineage_cannot_be_forked(writer):
    session, other = await writer.session([1]), await writer.session([1])
    with pytest.raises(NotFound, match="not in the history"):
        await writer.store.fork(session.id, snapshot_id=other.head)


async def test_a_snapshot_that_is_gone_cannot_be_forked_and_lists_nothing(writer):
    session = await writer.session([1])
    branch = await writer.store.fork(session.id)
    gone = (await writer.turn(branch.id, [2])).snapshot.id
    await writer.store.delete_session(branch.id)
    with pytest.raises(NotFound, match=gone):
        await writer.store.fork(session.id, snapshot_id=gone)
    assert [one.id for one in await writer.store.sessions(TENANT)] == [session.id]
    assert await writer.problems() == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_deleted_in_any_order_the_rest_keeps_exactly_what_it_reaches(writer, raw, order):
    root = await writer.session(*TURNS)
    first = (await writer.store.ancestors(root.head))[0].id
    early = await writer.store.fork(root.id, snapshot_id=first)
    await writer.turn(early.id, [50] * 8)
    late = await writer.store.fork(root.id)
    await writer.turn(late.id, [60] * 4)
    ids = [root.id, early.id, late.id]
    histories = {one: await writer.history(one) for one in ids}
    for index in order:
        await writer.store.delete_session(ids[index])
        del histories[ids[index]]
        reached = {
            snapshot.id: len(snapshot.objects)
            for one in histories
            for snapshot in await writer.store.ancestors((await writer.store.session(one)).head)
        }
        report = await writer.store.check_integrity()
        assert report.problems == []
        assert report.snapshots == len(reached)
        assert report.objects == sum(reached.values()) * RANKS
        for one, history in histories.items():
            assert await writer.history(one) == history
    left = {
        key.decode().split(":", 1)[1].partition(":")[0] for key in raw.keys(f"{writer.prefix}:*")
    }
    assert left <= {"kv", "state", "{tenant", "{operators}", "fingerprint"}  # the objects expire
