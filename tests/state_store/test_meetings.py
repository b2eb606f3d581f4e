"""A process that meets another between any two of its round trips to the store.

Each operation is run again and again, with the other's work done one round trip later each time,
until it meets it no more. Whatever happened, the store is in order and the head is old or new.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace

import pytest
import redis
from disturbed import BASE, TURN, new_world
from writer import FINGERPRINT, TENANT, Trips

from state_store.errors import HeadMoved, LeaseLost, NotFound, StoreError, StoreRefused
from state_store.objects import ObjectClient
from state_store.store import StateStore

pytestmark = pytest.mark.usefixtures("small_batches")


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
