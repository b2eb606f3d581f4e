"""A process that dies, or meets another, between any two of its round trips to the store.

Each operation is run again and again, disturbed one round trip later each time, until it runs
through. Whatever happened, after recovery the store is in order and the head is old or new.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace

import pytest
import redis
from writer import FINGERPRINT, RANKS, TENANT, Trips, Writer, objects_of

from state_store.errors import HeadMoved, LeaseLost, NotFound, StoreError, StoreRefused
from state_store.layout import TenantKeys
from state_store.objects import ObjectClient
from state_store.store import StateStore

BASE, TURN = range(8), range(8, 20)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Two objects in a batch, so that pinning and unpinning take several round trips."""
    monkeypatch.setattr("state_store.commit._BATCH", 2)
    monkeypatch.setattr("state_store.garbage._BATCH", 2)


class World:
    """A fresh prefix: `writer` is the survivor, `victim` the store that is disturbed."""

    def __init__(self, writer: Writer, victim: StateStore) -> None:
        self.writer = writer
        self.victim = victim
        self.trips = Trips(victim)

    async def check(self, raw, *, objects: int) -> None:
        """Recovered, the store holds `objects` objects and no trace of what went wrong."""
        await self.writer.store.recover(older_than=0)
        report = await self.writer.store.check_integrity()
        assert report.problems == []
        assert report.objects == objects * RANKS
        for left in ("journals", "aborted", "dead"):
            assert raw.keys(f"{self.writer.prefix}:{{*}}:{left}") == []


@contextlib.asynccontextmanager
async def new_world(server, objects):
    prefix = f"t{secrets.token_hex(4)}"
    async with (
        await StateStore.connect(server.url, prefix=prefix) as store,
        await StateStore.connect(server.url, prefix=prefix) as victim,
    ):
        yield World(Writer(store, objects, prefix), victim)


async def each_crash(server, objects, raw, scenario):
    """Run `scenario(world)` with a crash at every round trip; it must reach the last one."""
    for when in ("before", "after"):
        at, finished = 0, False
        while not finished:
            at += 1
            async with new_world(server, objects) as world:
                finished = await scenario(world, (when, at))
        assert at > 3


async def dies(world, crash_at, operation) -> bool:
    """Run the operation with a crash; whether it ran through in spite of it."""
    world.trips.count, world.trips.crash_at = 0, crash_at
    try:
        await operation()
    except StoreError:
        return False
    # Its last round trips may be failing ones that it can do without.
    return world.trips.count < crash_at[1]


async def test_a_commit_that_dies_anywhere_leaves_the_old_head_or_the_new_one(server, objects, raw):
    heads = set()

    async def scenario(world, crash_at):
        writer = world.writer
        session = await writer.session(BASE)
        draft = await writer.draft(session.id, TURN)
        writer.put(draft)
        lease = await writer.lease(session.id)
        finished = await dies(
            world,
            crash_at,
            lambda: world.victim.commit(draft, lease=lease, durability="memory"),
        )
        head = (await writer.store.session(session.id)).head
        moved = head != session.head
        heads.add(moved)
        await world.check(raw, objects=3 + (4 if moved else 0))
        assert await writer.history(session.id) == [*BASE, *(TURN if moved else ())]
        if finished:
            assert moved
        else:  # the writer tries again
            await writer.store.commit(draft, lease=lease, durability="memory")
            await world.check(raw, objects=7)
            assert await writer.history(session.id) == [*BASE, *TURN]
        return finished

    await each_crash(server, objects, raw, scenario)
    assert heads == {True, False}


async def test_a_commit_that_dies_on_an_equal_snapshot_takes_no_pin_away(server, objects, raw):
    async def scenario(world, crash_at):
        writer = world.writer
        session = await writer.session(BASE)
        branch = await writer.store.fork(session.id)
        await writer.turn(branch.id, TURN)
        draft = await writer.draft(session.id, TURN)
        lease = await writer.lease(session.id)
        finished = await dies(
            world,
            crash_at,
            lambda: world.victim.commit(draft, lease=lease, durability="memory"),
        )
        await world.check(raw, objects=7)
        await writer.store.delete_session(branch.id)
        moved = (await writer.store.session(session.id)).head != session.head
        await world.check(raw, objects=3 + (4 if moved else 0))
        return finished

    await each_crash(server, objects, raw, scenario)


async def test_a_refused_commit_that_dies_while_cleaning_up_holds_nothing(server, objects, raw):
    async def scenario(world, crash_at):
        writer = world.writer
        session = await writer.session(BASE)
        draft = await writer.draft(session.id, TURN)
        writer.put(draft)
        raw.delete(writer.names()[1].key(objects_of(draft)[-1]))
        lease = await writer.lease(session.id)
        world.trips.count, world.trips.crash_at = 0, crash_at
        with pytest.raises(StoreError):
            await world.victim.commit(draft, lease=lease, durability="memory")
        await world.check(raw, objects=3)
        return world.trips.count < crash_at[1]

    await each_crash(server, objects, raw, scenario)


async def test_a_rewind_that_dies_anywhere_leaves_the_old_head_or_the_new_one(server, objects, raw):
    heads = set()

    async def scenario(world, crash_at):
        writer = world.writer
        session = await writer.session(BASE, TURN)
        first = (await writer.store.ancestors(session.head))[0].id
        lease = await writer.lease(session.id)
        finished = await dies(
            world, crash_at, lambda: world.victim.rewind(session.id, first, lease=lease)
        )
        head = (await writer.store.session(session.id)).head
        assert head in (session.head, first)
        heads.add(head == first)
        await world.check(raw, objects=3 if head == first else 7)
        assert finished <= (head == first)
        await writer.store.rewind(session.id, first, lease=lease)  # the caller tries again
        await world.check(raw, objects=3)
        assert await writer.history(session.id) == [*BASE]
        return finished

    await each_crash(server, objects, raw, scenario)
    assert heads == {True, False}


async def test_a_rewind_to_the_beginning_that_dies_anywhere_can_be_repeated(server, objects, raw):
    async def scenario(world, crash_at):
        writer = world.writer
        session = await writer.session(BASE, TURN)
        lease = await writer.lease(session.id)
        finished = await dies(
            world, crash_at, lambda: world.victim.rewind(session.id, None, lease=lease)
        )
        head = (await writer.store.session(session.id)).head
        assert head in (session.head, None)
        await world.check(raw, objects=0 if head is None else 7)
        await writer.store.rewind(session.id, None, lease=lease)
        await world.check(raw, objects=0)
        return finished

    await each_crash(server, objects, raw, scenario)


async def test_a_fork_that_dies_anywhere_holds_all_of_its_history_or_does_not_exist(
    server, objects, raw
):
    made = set()

    async def scenario(world, crash_at):
        writer = world.writer
        session = await writer.session(BASE, TURN)
        finished = await dies(
            world, crash_at, lambda: world.victim.fork(session.id, labels={"a": "1"})
        )
        sessions = await writer.store.sessions(TENANT)
        branches = [one for one in sessions if one.id != session.id]
        made.add(len(branches))
        assert finished <= len(branches) <= 1
        await writer.store.delete_session(session.id)
        await world.check(raw, objects=7 * len(branches))
        for branch in branches:
            assert await writer.history(branch.id) == [*BASE, *TURN]
        assert await writer.store.find_sessions(TENANT, {"a": "1"}) == branches
        return finished

    await each_crash(server, objects, raw, scenario)
    assert made == {0, 1}


async def test_a_commit_while_its_session_is_rewound_keeps_only_what_the_head_reaches(
    server, objects, raw
):
    """One holder of the lease does both at once."""
    outcomes = set()

    async def scenario(world, meet):
        writer = world.writer
        session = await writer.session(BASE)
        draft = await writer.draft(session.id, TURN)
        writer.put(draft)
        lease = await writer.lease(session.id)
        meet(lambda: writer.store.rewind(session.id, None, lease=lease))
        outcome = await outcome_of(
            world.victim.commit(draft, lease=lease, durability="memory"), HeadMoved
        )
        outcomes.add(outcome == "done")
        history = await writer.history(session.id)
        assert history in ([], [*BASE, *TURN])
        await world.check(raw, objects=7 if history else 0)

    await each_meeting(server, objects, scenario)
    assert outcomes == {True, False}


async def test_a_delete_that_dies_anywhere_is_finished_or_has_not_happened(server, objects, raw):
    async def scenario(world, crash_at):
        writer = world.writer
        session = await writer.session(BASE, TURN)
        branch = await writer.store.fork(session.id)
        await writer.turn(branch.id, [1] * 8)
        finished = await dies(world, crash_at, lambda: world.victim.delete_session(branch.id))
        there = branch.id in {one.id for one in await writer.store.sessions(TENANT)}
        await world.check(raw, objects=7 + (3 if there else 0))
        assert await writer.history(session.id) == [*BASE, *TURN]
        await writer.store.delete_session(session.id)
        if there:
            await writer.store.delete_session(branch.id)
        await world.check(raw, objects=0)
        return finished

    await each_crash(server, objects, raw, scenario)


async def test_a_recovery_that_dies_is_finished_by_the_next(server, objects, raw):
    async def scenario(world, crash_at):
        writer = world.writer
        session = await writer.session(BASE)
        draft = await writer.draft(session.id, TURN)
        writer.put(draft)
        lease = await writer.lease(session.id)
        world.trips.crash_at = ("after", 3)
        with pytest.raises(StoreError):
            await world.victim.commit(draft, lease=lease, durability="memory")
        finished = await dies(world, crash_at, lambda: world.victim.recover(older_than=0))
        await world.check(raw, objects=3)
        return finished

    await each_crash(server, objects, raw, scenario)


@pytest.mark.parametrize("forking", [False, True])
async def test_a_session_that_is_half_made_can_be_found_and_deleted(
    server, objects, raw, forking, monkeypatch
):
    monkeypatch.setattr("state_store.sessions.UNMADE", -60)  # nobody is still making one

    async def scenario(world, crash_at):
        writer = world.writer
        parent = await writer.session(BASE)

        async def make():
            if forking:
                await world.victim.fork(parent.id)
            else:
                await world.victim.create_session(tenant=TENANT, fingerprint=FINGERPRINT)

        finished = await dies(world, crash_at, make)
        for session in await writer.store.sessions(TENANT):
            await writer.store.delete_session(session.id)
        await world.check(raw, objects=0)
        tenant = TenantKeys(writer.prefix, TENANT)
        # Its name may stay listed for a while, as long as it might still be made.
        left = {key.decode() for key in raw.keys(f"{writer.prefix}:{{*")}
        assert left <= {tenant.record, tenant.sessions}
        assert raw.keys(f"{writer.prefix}:lineages") == []
        return finished

    await each_crash(server, objects, raw, scenario)


async def outcome_of(operation, allowed) -> str:
    try:
        await operation
    except allowed as error:
        return str(error)
    return "done"


async def each_meeting(server, objects, scenario):
    """Run `scenario(world, meet)` with another party's work done before every round trip."""
    at, met = 0, True
    while met:
        at += 1
        async with new_world(server, objects) as world:

            def meet(action, world=world, at=at):
                world.trips.count, world.trips.between = 0, (at, action)

            await scenario(world, meet)
            met = world.trips.between is None
    assert at > 3


async def test_recovery_during_a_commit_ends_it_cleanly(server, objects, raw):
    outcomes = set()

    async def scenario(world, meet):
        writer = world.writer
        session = await writer.session(BASE)
        draft = await writer.draft(session.id, TURN)
        writer.put(draft)
        lease = await writer.lease(session.id)
        meet(lambda: writer.store.recover(older_than=0))
        outcome = await outcome_of(
            world.victim.commit(draft, lease=lease, durability="memory"), LeaseLost
        )
        outcomes.add(outcome)
        moved = (await writer.store.session(session.id)).head != session.head
        await world.check(raw, objects=3 + (4 if moved else 0))

    await each_meeting(server, objects, scenario)
    assert any("recovery abandoned it" in outcome for outcome in outcomes)
    assert "done" in outcomes


async def test_a_take_over_during_a_commit_lets_only_one_writer_win(server, objects, raw):
    async def scenario(world, meet):
        writer = world.writer
        session = await writer.session(BASE)
        draft = await writer.draft(session.id, TURN)
        other = await writer.draft(session.id, [7] * 8)
        writer.put(draft)
        writer.put(other)
        lease = await writer.lease(session.id)

        async def take_over():
            await writer.store.release(lease)
            new = await writer.store.acquire(session.id, ttl=30, owner="new")
            with contextlib.suppress(HeadMoved):
                await writer.store.commit(other, lease=new, durability="memory")

        meet(take_over)
        with contextlib.suppress(LeaseLost):
            await world.victim.commit(draft, lease=lease, durability="memory")
        won = await writer.history(session.id)
        assert won in ([*BASE, *TURN], [*BASE, *[7] * 8])
        await world.check(raw, objects=3 + len(won[8:]) // 4 + 1)

    await each_meeting(server, objects, scenario)


async def test_deleting_the_twin_of_a_snapshot_during_its_commit_loses_nothing(
    server, objects, raw
):
    async def scenario(world, meet):
        writer = world.writer
        session = await writer.session(BASE)
        twin = await writer.store.fork(session.id)
        await writer.turn(twin.id, TURN)
        draft = await writer.draft(session.id, TURN)
        lease = await writer.lease(session.id)
        meet(lambda: writer.store.delete_session(twin.id))
        await world.victim.commit(draft, lease=lease, durability="memory")
        if world.trips.between is not None:
            await writer.store.delete_session(twin.id)
        await world.check(raw, objects=7)
        assert await writer.history(session.id) == [*BASE, *TURN]

    await each_meeting(server, objects, scenario)


async def test_committing_the_twin_of_a_snapshot_during_its_deletion_loses_nothing(
    server, objects, raw
):
    async def scenario(world, meet):
        writer = world.writer
        session = await writer.session(BASE)
        twin = await writer.store.fork(session.id)
        await writer.turn(twin.id, TURN)
        meet(lambda: writer.turn(session.id, TURN))
        await world.victim.delete_session(twin.id)
        assert raw.keys(f"{writer.prefix}:{{*}}:aborted") == []
        if world.trips.between is None:
            assert await writer.history(session.id) == [*BASE, *TURN]
            await world.check(raw, objects=7)
        else:
            await world.check(raw, objects=3)

    await each_meeting(server, objects, scenario)


async def test_a_snapshot_that_is_revived_and_dies_again_while_it_is_unwound_leaves_no_pin(
    server, objects, raw
):
    async def scenario(world, meet):
        writer = world.writer
        session = await writer.session(BASE)
        twin = await writer.store.fork(session.id)
        await writer.turn(twin.id, TURN)

        async def revive_and_die():
            await writer.turn(session.id, TURN)
            async with await StateStore.connect(server.url, prefix=writer.prefix) as dying:
                Trips(dying).crash_at = ("after", 3)
                with pytest.raises(StoreError):  # the session is gone, its unwinding has not begun
                    await dying.delete_session(session.id)

        meet(revive_and_die)
        await world.victim.delete_session(twin.id)
        await world.check(raw, objects=0 if world.trips.between is None else 3)

    await each_meeting(server, objects, scenario)


async def test_forking_a_snapshot_while_it_is_unwound_holds_all_of_it_or_is_refused(
    server, objects, raw
):
    outcomes = set()

    async def scenario(world, meet):
        writer = world.writer
        session = await writer.session(BASE)
        doomed = await writer.store.fork(session.id)
        head = (await writer.turn(doomed.id, TURN)).snapshot.id

        async def fork():
            try:
                branch = await writer.store.fork(session.id, snapshot_id=head)
            except NotFound:
                outcomes.add("refused")
            else:
                outcomes.add("held")
                branches.append(branch.id)

        branches: list[str] = []
        meet(fork)
        await world.victim.delete_session(doomed.id)
        await world.check(raw, objects=7 if branches else 3)
        for branch in branches:
            assert await writer.history(branch) == [*BASE, *TURN]

    await each_meeting(server, objects, scenario)
    assert outcomes == {"refused", "held"}


async def test_deleting_a_session_while_it_is_forked_leaves_a_whole_fork_or_none(
    server, objects, raw
):
    async def scenario(world, meet):
        writer = world.writer
        session = await writer.session(BASE)
        meet(lambda: writer.store.delete_session(session.id))
        try:
            branch = await world.victim.fork(session.id)
        except NotFound:
            await world.check(raw, objects=0)
            assert await writer.store.sessions(TENANT) == []
        else:
            await world.check(raw, objects=3)
            assert await writer.history(branch.id) == [*BASE]

    await each_meeting(server, objects, scenario)


async def test_recovery_while_a_session_is_made_does_not_lose_sight_of_it(server, objects, raw):
    async def scenario(world, meet):
        writer = world.writer
        meet(lambda: writer.store.recover(older_than=0))
        session = await world.victim.create_session(tenant=TENANT, fingerprint=FINGERPRINT)
        await writer.turn(session.id, BASE)
        assert (await writer.store.check_integrity()).sessions == 1
        await world.check(raw, objects=3)

    await each_meeting(server, objects, scenario)


async def test_forking_an_empty_session_as_it_is_deleted_does_not_lose_sight_of_the_fork(
    server, objects, raw
):
    async def scenario(world, meet):
        writer = world.writer
        session = await writer.session()
        branch_id = session.id[:-16] + secrets.token_hex(8)
        branch = replace(session, body=session.body.model_copy(update={"id": branch_id}))
        # The fork has read its parent before the deletion, and is made in the midst of it.
        meet(lambda: writer.store._sessions._add(branch))
        await world.victim.delete_session(session.id)
        if world.trips.between is None:
            await writer.turn(branch.id, BASE)
            assert (await writer.store.check_integrity()).sessions == 1
            await world.check(raw, objects=3)

    await each_meeting(server, objects, scenario)


async def test_a_store_that_fills_up_during_a_commit_refuses_it_cleanly(own_server):
    client = ObjectClient(own_server.url, timeout=5.0)
    with redis.Redis.from_url(own_server.url) as raw:

        async def fill():
            raw.config_set("maxmemory", 1)

        async def scenario(world, meet):
            writer = world.writer
            session = await writer.session(BASE)
            draft = await writer.draft(session.id, TURN)
            writer.put(draft)
            lease = await writer.lease(session.id)
            meet(fill)
            with contextlib.suppress(StoreRefused):
                await world.victim.commit(draft, lease=lease, durability="memory")
            moved = (await writer.store.session(session.id)).head != session.head
            await world.check(raw, objects=3 + (4 if moved else 0))
            raw.config_set("maxmemory", 0)

        await each_meeting(own_server, client, scenario)
    client.close()
