"""A process that dies between any two of its round trips to the store.

Each operation is run again and again, dying one round trip later each time, until it runs through.
Whatever happened, after recovery the store is in order and the head is old or new.
"""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from disturbed import BASE, TURN, new_world
from writer import FINGERPRINT, TENANT, commit, find_sessions, objects_of

from state_store.errors import StoreError
from state_store.layout import OperatorKeys, TenantKeys

pytestmark = pytest.mark.usefixtures("small_batches")

REWRITTEN, NEXT = [50] * 4, [51] * 8  # 2 and 3 objects


async def each_crash(server, objects, raw, scenario):
    """Run `scenario(world)` with a crash at every round trip; it must reach the last one."""
    for when in ("before", "amid", "after"):
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


async def rewriting(writer, session):
    """A draft of NEXT onto REWRITTEN, which takes the place of all after the first turn."""
    first = await writer.instead_of(session, 1, REWRITTEN)
    draft = await writer.going_on(first, NEXT)
    for one in draft.chain:
        writer.put(one)
    return draft


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


@pytest.mark.parametrize("equal", [False, True])
async def test_a_turn_onto_a_rewritten_history_that_dies_anywhere_is_whole_or_absent(
    server, objects, raw, equal
):
    """The head is never the rewritten history alone. equal: a fork has both snapshots already."""
    heads = set()

    async def scenario(world, crash_at):
        writer = world.writer
        session = await writer.session(BASE, TURN)
        both = [*BASE, *REWRITTEN, *NEXT]
        if equal:
            fork = await writer.store.fork(session.id)
            await commit(writer.store, await rewriting(writer, fork))
        draft = await rewriting(writer, session)
        lease = await writer.lease(session.id)
        finished = await dies(
            world,
            crash_at,
            lambda: world.victim.commit(draft, lease=lease, durability="memory"),
        )
        moved = (await writer.store.session(session.id)).head != session.head
        heads.add(moved)
        await world.check(raw, objects=8 if moved else 12 if equal else 7)
        assert await writer.history(session.id) == (both if moved else [*BASE, *TURN])
        if finished:
            assert moved
        else:  # the writer tries again
            await writer.store.commit(draft, lease=lease, durability="memory")
            await world.check(raw, objects=8)
            assert await writer.history(session.id) == both
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
        assert await find_sessions(writer.store, TENANT, {"a": "1"}) == branches
        return finished

    await each_crash(server, objects, raw, scenario)
    assert made == {0, 1}


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


async def test_an_import_that_dies_anywhere_leaves_all_of_a_session_or_an_empty_one_to_collect(
    server, objects, raw, tmp_path
):
    path = tmp_path / "session.torpor"
    made = set()

    async def scenario(world, crash_at):
        writer = world.writer
        session = await writer.session(BASE, TURN, [7] * 8)
        path.unlink(missing_ok=True)
        await writer.store.export_session(session.id, path)
        await writer.store.delete_session(session.id)

        async def take():
            await world.victim.import_session(path, tenant=TENANT)

        finished = await dies(world, crash_at, take)
        noted = [begun.session_id async for begun in writer.store.unfinished.every()]
        for session in await writer.store.sessions(TENANT):
            tokens = await writer.history(session.id)
            made.add(len(tokens))
            assert tokens == [*BASE, *TURN, *[7] * 8] or (tokens == [] and session.id in noted)
            await writer.store.delete_session(session.id)
        for session_id in noted:
            await writer.store.unfinished.drop(TENANT, session_id)
        await world.check(raw, objects=0)
        return finished

    await each_crash(server, objects, raw, scenario)
    assert made == {0, len([*BASE, *TURN]) + 8}


async def test_a_history_of_very_many_snapshots_is_imported_in_one_step(writer, tmp_path):
    """More than Python can nest calls."""
    store = writer.store
    session = await writer.session()
    draft = await writer.draft(session.id, [1])
    for number in range(2, 1101):
        one = array("I", [number])
        draft = replace(draft, new_tokens=one, total_tokens=number, onto=draft)
    await commit(store, draft)
    await store.export_session(session.id, tmp_path / "long.torpor")
    taken = await store.import_session(tmp_path / "long.torpor", tenant=TENANT)
    assert await writer.history(taken.id) == list(range(1, 1101))
    assert len(await store.ancestors(taken.head)) == 1100
    assert [one async for one in store.unfinished.every()] == []


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
        listed = OperatorKeys(writer.prefix).tenants
        assert left <= {tenant.record, tenant.sessions, listed}
        assert raw.keys(f"{writer.prefix}:lineages") == []
        return finished

    await each_crash(server, objects, raw, scenario)
