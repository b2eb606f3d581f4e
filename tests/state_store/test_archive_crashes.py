"""A process that dies, or meets another, between any two of its steps of moving objects.

A step is a round trip to Redis or an operation on one archived file. Each move is run again and
again, disturbed one step later each time, until it runs through.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from shelf import Shelf, Steps, dies, value_of

from state_store.archive.collect import collect_condemned, collect_orphans
from state_store.errors import ArchivedObjectsLost


@pytest.fixture(autouse=True)
def one_step_at_a_time(monkeypatch):
    """One thread, so that steps have an order, and two objects in a chunk."""
    monkeypatch.setattr("state_store.archive.archivist.WORKERS", 1)
    monkeypatch.setattr("state_store.archive.archivist._CHUNK_OBJECTS", 2)


class World(Shelf):
    """A shelf with three objects and a second process on it, which is disturbed."""

    def __init__(self, url, folder):
        super().__init__(url, folder)
        self.held = self.snapshot(pages=2)
        self.victim, self._victims_control = self.another()

    def disturb(self):
        self.steps = Steps(self.victim)

    async def close(self):
        self.victim.close()
        self.victim._client._real.close()
        await self._victims_control.close()
        await super().close()

    def let_go(self):
        for target in self.targets(self.held):
            self.unpin(target)


@contextlib.asynccontextmanager
async def new_world(server, tmp_path, *, out=False):
    world = World(server.url, tmp_path)
    if out:
        await world.archivist.move_out([world.held])
    world.disturb()
    try:
        yield world
    finally:
        await world.close()


async def each_crash(server, tmp_path, scenario, *, out=False):
    for when in ("before", "after"):
        at, finished = 0, False
        while not finished:
            at += 1
            async with new_world(server, tmp_path, out=out) as world:
                finished = await scenario(world, (when, at))
        assert at > 5


async def each_meeting(server, tmp_path, scenario, *, out=False):
    """Run `scenario(world, meet)`, which has `meet` run an action before an ever later step."""
    at, met = 0, True
    while met:
        at += 1
        async with new_world(server, tmp_path, out=out) as world:

            def meet(action, world=world, at=at):
                world.steps.trips.between = (at, action)

            await scenario(world, meet)
            met = world.steps.trips.between is None
    assert at > 5


# ---- deaths ------------------------------------------------------------------


async def test_a_move_out_that_dies_anywhere_loses_nothing_and_can_be_repeated(server, tmp_path):
    async def scenario(world, at):
        finished = await dies(world.steps, at, world.victim.move_out([world.held]))
        await world.check(world.held)
        await world.archivist.move_out([world.held])
        assert {world.place(target) for target in world.targets(world.held)} == {"archived"}
        await world.check(world.held)
        return finished

    await each_crash(server, tmp_path, scenario)


async def test_a_move_back_that_dies_anywhere_loses_nothing_and_can_be_repeated(server, tmp_path):
    async def scenario(world, at):
        finished = await dies(world.steps, at, world.victim.bring_back([world.held]))
        await world.check(world.held)
        await world.archivist.bring_back([world.held])
        assert {world.place(target) for target in world.targets(world.held)} == {"stored"}
        await world.check(world.held)
        return finished

    await each_crash(server, tmp_path, scenario, out=True)


async def test_what_a_dead_move_left_is_let_go_with_its_session(server, tmp_path):
    async def scenario(world, at):
        finished = await dies(world.steps, at, world.victim.move_out([world.held]))
        world.let_go()
        await world.check(released=[world.held])
        assert world.files() == []
        return finished

    await each_crash(server, tmp_path, scenario)


async def test_freeing_what_was_written_again_may_die_anywhere(server, tmp_path):
    async def scenario(world, at):
        for target in world.targets(world.held):
            world.write(target, variant=1)
        finished = await dies(world.steps, at, world.victim.move_out([world.held]))
        await world.check(world.held)
        await world.archivist.move_out([world.held])
        assert {world.place(target) for target in world.targets(world.held)} == {"archived"}
        return finished

    await each_crash(server, tmp_path, scenario, out=True)


async def test_collecting_may_die_anywhere(server, tmp_path):
    async def scenario(world, at):
        await world.archivist.bring_back([world.held])
        for target in world.targets(world.held)[:2]:
            world.unpin(target)
        victim = world.victim
        control, archive = victim._control, victim.archive
        world.steps.trips.crash_at = at
        finished = False
        with contextlib.suppress(Exception):
            await collect_condemned(control, world.prefix, archive, older_than=0)
            await collect_orphans(control, world.prefix, archive, older_than=0)
            finished = world.steps.trips.count < at[1]
        kept = world.targets(world.held)[2]
        assert world.load(kept) == [value_of(n, kept.ref)[128:] for n in kept.names]
        await world.settle()
        assert world.files() == []
        return finished

    await each_crash(server, tmp_path, scenario, out=True)


# ---- meetings ----------------------------------------------------------------


async def written_again_and_pinned(world):
    for target in world.targets(world.held):
        world.write(target, variant=1)
        world.pin(target, "two")


async def written_over(world):
    """By an engine that found it damaged, with other bytes that are as right."""
    for target in world.targets(world.held):
        items = [
            (names.key(target.ref), memoryview(value_of(names, target.ref, 1)))
            for names in target.names
        ]
        for key, value in items:
            world.raw.set(key, value, xx=True, keepttl=True)


async def vanished(world):
    """What was on its way back expires before it has arrived."""
    for target in world.targets(world.held):
        if world.raw.exists(target.cold):
            world.raw.delete(*target.objects)


async def let_go_and_committed_again(world):
    world.let_go()
    for target in world.targets(world.held):
        world.raw.delete(*target.objects)
        world.write(target, variant=1)
        assert world.pin(target, "two")


async def moved_out(world):
    await world.archivist.move_out([world.held])


async def brought_back(world):
    await world.archivist.bring_back([world.held])


async def moved_out_and_back(world):
    await moved_out(world)
    await brought_back(world)


async def brought_back_and_out(world):
    await brought_back(world)
    await moved_out(world)


async def collected(world):
    await collect_condemned(world.control, world.prefix, world.archive)
    await collect_orphans(world.control, world.prefix, world.archive)


MEETINGS = [
    written_again_and_pinned,
    written_over,
    vanished,
    let_go_and_committed_again,
    moved_out,
    brought_back,
    moved_out_and_back,
    brought_back_and_out,
    collected,
]


@pytest.mark.parametrize("meeting", MEETINGS)
async def test_a_move_out_meets(server, tmp_path, meeting):
    async def scenario(world, meet):
        meet(lambda: meeting(world))
        await world.victim.move_out([world.held])
        await world.check(world.held)

    await each_meeting(server, tmp_path, scenario)


@pytest.mark.parametrize("meeting", MEETINGS)
async def test_a_move_back_meets(server, tmp_path, meeting):
    async def scenario(world, meet):
        meet(lambda: meeting(world))
        with contextlib.suppress(ArchivedObjectsLost):  # what is let go of may be gone
            await world.victim.bring_back([world.held])
        await world.check(world.held)

    await each_meeting(server, tmp_path, scenario, out=True)


@pytest.mark.parametrize("meeting", MEETINGS)
async def test_freeing_what_was_written_again_meets(server, tmp_path, meeting):
    async def scenario(world, meet):
        for target in world.targets(world.held):
            world.write(target)
        meet(lambda: meeting(world))
        await world.victim.move_out([world.held])
        await world.check(world.held)

    await each_meeting(server, tmp_path, scenario, out=True)


@pytest.mark.parametrize("out", [False, True])
async def test_letting_go_in_the_midst_of_a_move_leaves_nothing(server, tmp_path, out):
    async def scenario(world, meet):
        async def let_go():
            world.let_go()

        meet(let_go)
        if out:
            with contextlib.suppress(ArchivedObjectsLost):
                await world.victim.bring_back([world.held])
        else:
            await world.victim.move_out([world.held])
        if world.steps.trips.between is None:
            await world.check(released=[world.held])
            assert world.files() == []

    await each_meeting(server, tmp_path, scenario, out=out)


async def test_a_copy_of_other_bytes_than_are_there_now_frees_nothing(server, tmp_path):
    """The archive's copy may be encrypted under a key that is gone with what was let go of."""
    outcomes = set()

    async def scenario(world, meet):
        async def commit_again():
            outcomes.add("before" if not world.raw.keys(f"{world.prefix}:cold:*") else "after")
            await let_go_and_committed_again(world)

        meet(commit_again)
        await world.victim.move_out([world.held])
        for target in world.targets(world.held):
            if world.steps.trips.between is None:
                assert world.load(target) == [
                    value_of(n, target.ref, 1)[128:] for n in target.names
                ]

    await each_meeting(server, tmp_path, scenario)
    assert outcomes == {"before", "after"}


async def test_loading_in_the_midst_of_a_move_always_finds_everything(server, tmp_path):
    for out in (False, True):

        async def scenario(world, meet, out=out):
            seen = []

            async def load():
                seen.extend((target, world.load(target)) for target in world.targets(world.held))

            meet(load)
            await (world.victim.bring_back if out else world.victim.move_out)([world.held])
            for target, values in seen:
                assert values == [value_of(n, target.ref)[128:] for n in target.names]

        await each_meeting(server, tmp_path, scenario, out=out)


async def test_many_archivists_at_once_leave_every_object_in_one_place(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr("state_store.archive.archivist.WORKERS", 3)
    shelf = Shelf(server.url, tmp_path)
    held = [shelf.snapshot(pages=4) for _ in range(2)]
    others = [shelf.another() for _ in range(4)]

    async def work(archivist, first):
        for turn in range(6):
            move = archivist.move_out if (turn + first) % 2 else archivist.bring_back
            await move(held)

    await asyncio.gather(*(work(archivist, n) for n, (archivist, _) in enumerate(others)))
    await shelf.check(*held)
    for archivist, control in others:
        archivist.close()
        archivist._client.close()
        await control.close()
    await shelf.close()
