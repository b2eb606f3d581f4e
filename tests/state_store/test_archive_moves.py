"""Moving objects out of Redis and back, undisturbed and in a damaged or full world."""

from __future__ import annotations

from functools import partial

import pytest
from shelf import FINGERPRINT, RANKS, Shelf, value_of

from state_store.archive.clock import MOVE_LIMIT, ORPHAN_AGE, read_clock
from state_store.archive.collect import check_archive, collect_condemned, collect_orphans
from state_store.archive.moved import Moved
from state_store.archive.names import Generation, all_ranks, object_name
from state_store.archive.residency import residency, sample_of
from state_store.archive.targets import look
from state_store.errors import ArchivedObjectsLost, ArchiveUnavailable, StoreFull
from state_store.layout import ObjectNames, ObjectRef


@pytest.fixture
async def shelf(server, tmp_path):
    opened = Shelf(server.url, tmp_path)
    yield opened
    await opened.close()


async def test_what_is_moved_out_leaves_memory_and_loads_from_the_archive(shelf):
    snapshot = shelf.snapshot(pages=3)
    moved = await shelf.archivist.move_out([snapshot])
    size = sum(
        len(value_of(names, target.ref)) for target in shelf.targets(snapshot)
        for names in target.names
    )  # fmt: skip
    assert moved == Moved(objects=4, bytes=size)
    assert {shelf.place(target) for target in shelf.targets(snapshot)} == {"archived"}
    await shelf.check(snapshot)


async def test_an_archived_value_is_the_stored_one_byte_for_byte(shelf):
    snapshot = shelf.snapshot()
    await shelf.archivist.move_out([snapshot])
    for target in shelf.targets(snapshot):
        cold = Generation.parse(shelf.raw.get(target.cold))
        for names in target.names:
            file = shelf.folder / object_name(names, target.ref, cold)
            assert file.read_bytes() == value_of(names, target.ref)


async def test_what_is_brought_back_stays_and_leaves_the_archive(shelf):
    snapshot = shelf.snapshot(pages=3)
    out = await shelf.archivist.move_out([snapshot])
    assert await shelf.archivist.bring_back([snapshot]) == out
    assert {shelf.place(target) for target in shelf.targets(snapshot)} == {"stored"}
    await shelf.check(snapshot)
    assert shelf.files() == []


async def test_moving_twice_moves_nothing(shelf):
    snapshot = shelf.snapshot(pages=3)
    await shelf.archivist.move_out([snapshot])
    assert await shelf.archivist.move_out([snapshot, snapshot]) == Moved(already=4)
    await shelf.archivist.bring_back([snapshot])
    assert await shelf.archivist.bring_back([snapshot]) == Moved(already=4)


async def test_each_stay_in_the_archive_has_a_generation_of_its_own(shelf):
    snapshot = shelf.snapshot()
    target = shelf.targets(snapshot)[0]
    generations = set()
    for _ in range(3):
        await shelf.archivist.move_out([snapshot])
        generations.add(shelf.raw.get(target.cold))
        await shelf.archivist.bring_back([snapshot])
    assert len(generations) == 3
    await shelf.check(snapshot)


async def test_more_than_one_chunk_is_moved(shelf, monkeypatch):
    monkeypatch.setattr("state_store.archive.archivist._CHUNK_OBJECTS", 3)
    snapshot = shelf.snapshot(pages=10)
    assert (await shelf.archivist.move_out([snapshot])).objects == 11
    assert (await shelf.archivist.bring_back([snapshot])).objects == 11
    await shelf.check(snapshot)


async def test_letting_go_of_what_is_archived_frees_the_archive(shelf):
    snapshot, other = shelf.snapshot(), shelf.snapshot()
    await shelf.archivist.move_out([snapshot, other])
    for target in shelf.targets(snapshot):
        shelf.unpin(target)
    done = await collect_condemned(shelf.control, shelf.prefix, shelf.archive)
    assert (done.collected, done.damaged) == (0, 0)
    assert len(shelf.files()) == 6 * RANKS  # a server that lost its last writes names them still
    await shelf.check(other, released=[snapshot])
    assert len(shelf.files()) == 3 * RANKS


async def test_what_nobody_holds_is_not_moved(shelf):
    snapshot = shelf.snapshot()
    for target in shelf.targets(snapshot):
        shelf.unpin(target)
    assert await shelf.archivist.move_out([snapshot]) == Moved(left=3)
    await shelf.check(released=[snapshot])


async def test_an_archived_object_is_pinned_like_any_other(shelf):
    snapshot = shelf.snapshot()
    await shelf.archivist.move_out([snapshot])
    for target in shelf.targets(snapshot):
        assert shelf.pin(target, "two")
        shelf.unpin(target, "one")
    await shelf.check(snapshot)


async def test_what_an_engine_wrote_again_is_dropped_if_the_archive_has_it_whole(shelf):
    snapshot = shelf.snapshot()
    await shelf.archivist.move_out([snapshot])
    for target in shelf.targets(snapshot):
        shelf.write(target, variant=1)
        assert shelf.pin(target, "two")
    moved = await shelf.archivist.move_out([snapshot])
    assert (moved.objects, moved.left) == (3, 0)
    assert {shelf.place(target) for target in shelf.targets(snapshot)} == {"archived"}
    await shelf.check(snapshot)


async def test_what_an_engine_wrote_again_is_kept_if_the_archives_copy_is_damaged(shelf):
    snapshot = shelf.snapshot()
    await shelf.archivist.move_out([snapshot])
    for name in shelf.files():
        (shelf.folder / name).write_bytes(b"rot")
    for target in shelf.targets(snapshot):
        shelf.write(target, variant=1)
    moved = await shelf.archivist.move_out([snapshot])
    assert (moved.objects, moved.left, len(moved.problems)) == (0, 3, 3)
    assert {shelf.place(target) for target in shelf.targets(snapshot)} == {"stored"}
    await shelf.check(snapshot)


async def test_bringing_back_what_an_engine_wrote_again_keeps_the_engines(shelf):
    snapshot = shelf.snapshot()
    await shelf.archivist.move_out([snapshot])
    target = shelf.targets(snapshot)[0]
    shelf.write(target, variant=1)
    assert (await shelf.archivist.bring_back([snapshot])).objects == 3
    assert shelf.raw.get(target.objects[0]) == value_of(target.names[0], target.ref, 1)
    await shelf.check(snapshot)


async def test_a_damaged_value_beside_a_whole_archived_one_is_written_over(shelf):
    snapshot = shelf.snapshot()
    await shelf.archivist.move_out([snapshot])
    target = shelf.targets(snapshot)[0]
    shelf.raw.set(target.objects[1], b"rot", ex=300)
    assert (await shelf.archivist.bring_back([snapshot])).objects == 3
    await shelf.check(snapshot)


# ---- damage ------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    value = bytearray(path.read_bytes())
    value[-1] ^= 1
    path.write_bytes(value)


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"!")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), truncate, flip, lengthen])
async def test_a_damaged_archived_object_is_named_and_everything_else_comes_back(shelf, damage):
    snapshot = shelf.snapshot(pages=3)
    await shelf.archivist.move_out([snapshot])
    victim = shelf.targets(snapshot)[1]
    cold = shelf.raw.get(victim.cold)
    damage(shelf.folder / object_name(victim.names[1], victim.ref, Generation.parse(cold)))
    report = await check_archive(shelf.control, shelf.prefix, shelf.archive)
    assert [victim.cold.decode() in problem for problem in report.problems] == [True]
    assert report.objects == 3
    assert shelf.load(victim)[1] is None
    with pytest.raises(ArchivedObjectsLost) as lost:
        await shelf.archivist.bring_back([snapshot])
    assert lost.value.lost == (tuple(victim.ref),)
    assert shelf.raw.get(victim.cold) == cold  # nothing was given up
    others = [t for t in shelf.targets(snapshot) if t != victim]
    assert {shelf.place(target) for target in others} == {"stored"}
    # Computed again by an engine, it is whole once more, and the damaged copy is given up.
    shelf.write(victim)
    assert (await shelf.archivist.bring_back([snapshot])).objects == 1
    await shelf.check(snapshot)


async def test_a_foreign_archived_object_is_not_taken_for_its_own(shelf):
    snapshot = shelf.snapshot()
    await shelf.archivist.move_out([snapshot])
    one, two, _ = shelf.targets(snapshot)
    paths = [
        shelf.folder / object_name(t.names[0], t.ref, Generation.parse(shelf.raw.get(t.cold)))
        for t in (one, two)
    ]
    paths[0].write_bytes(paths[1].read_bytes())
    assert shelf.load(one)[0] is None
    with pytest.raises(ArchivedObjectsLost):
        await shelf.archivist.bring_back([snapshot])


async def test_what_is_damaged_in_redis_is_not_archived(shelf):
    snapshot = shelf.snapshot(pages=3)
    victim = shelf.targets(snapshot)[1]
    shelf.raw.setrange(victim.objects[1], 130, b"rot")
    moved = await shelf.archivist.move_out([snapshot])
    assert (moved.objects, moved.left) == (3, 1)
    assert victim.ref.page_hash in moved.problems[0]
    assert shelf.raw.exists(*victim.objects) == RANKS
    assert not shelf.raw.exists(victim.cold)
    await shelf.settle()
    assert len(shelf.files()) == 3 * RANKS


async def test_an_archive_that_does_not_give_back_what_it_took_frees_nothing(shelf, monkeypatch):
    snapshot = shelf.snapshot()
    put = shelf.archive.put
    monkeypatch.setattr(shelf.archive, "put", lambda name, value: put(name, value[:-1]))
    with pytest.raises(ArchiveUnavailable, match="nothing was removed"):
        await shelf.archivist.move_out([snapshot])
    assert {shelf.place(target) for target in shelf.targets(snapshot)} == {"stored"}
    assert shelf.files() == []
    await shelf.check(snapshot)


async def test_a_full_disk_leaves_everything_in_redis(shelf, monkeypatch):
    snapshot = shelf.snapshot(pages=3)
    put, left = shelf.archive.put, [5]

    def fills_up(name, value):
        left[0] -= 1
        if left[0] < 0:
            raise ArchiveUnavailable("full")
        put(name, value)

    monkeypatch.setattr(shelf.archive, "put", fills_up)
    with pytest.raises(ArchiveUnavailable):
        await shelf.archivist.move_out([snapshot])
    assert shelf.files() == []
    await shelf.check(snapshot)


# ---- memory and idle times ----------------------------------------------------


@pytest.fixture
async def own_shelf(own_server, tmp_path):
    opened = Shelf(own_server.url, tmp_path)
    yield opened
    opened.raw.config_set("maxmemory", 0)
    await opened.close()


async def test_a_full_store_refuses_to_take_back_and_loses_nothing(own_shelf):
    snapshot = own_shelf.snapshot(pages=3)
    await own_shelf.archivist.move_out([snapshot])
    own_shelf.raw.config_set("maxmemory", 1)
    with pytest.raises(StoreFull, match="stays in the archive"):
        await own_shelf.archivist.bring_back([snapshot])
    assert {own_shelf.place(target) for target in own_shelf.targets(snapshot)} == {"archived"}
    own_shelf.raw.config_set("maxmemory", 0)
    assert (await own_shelf.archivist.bring_back([snapshot])).objects == 4
    await own_shelf.check(snapshot)


async def test_a_full_store_can_be_emptied_into_the_archive(own_shelf):
    snapshot = own_shelf.snapshot(pages=3)
    own_shelf.raw.config_set("maxmemory", 1)
    assert (await own_shelf.archivist.move_out([snapshot])).objects == 4
    await own_shelf.check(snapshot)


async def test_what_fills_up_while_it_is_taken_back_is_in_one_place_or_the_other(own_shelf):
    snapshot = own_shelf.snapshot(pages=6)
    await own_shelf.archivist.move_out([snapshot])
    get_into, left = own_shelf.archive.get_into, [5]

    def fills_up(name, value):
        left[0] -= 1
        if left[0] == 0:
            own_shelf.raw.config_set("maxmemory", 1)
        return get_into(name, value)

    own_shelf.archivist.archive.get_into = fills_up
    with pytest.raises(StoreFull):
        await own_shelf.archivist.bring_back([snapshot])
    own_shelf.raw.config_set("maxmemory", 0)
    await own_shelf.check(snapshot)


def age(shelf, target, seconds):
    """Make the server believe that nobody has used the object for so long."""
    for key in target.objects:
        shelf.raw.restore(key, 0, shelf.raw.dump(key), replace=True, idletime=seconds)


async def test_what_somebody_has_read_lately_stays(shelf):
    snapshot = shelf.snapshot(pages=3)
    idle, busy, *_ = shelf.targets(snapshot)
    for target in shelf.targets(snapshot):
        age(shelf, target, 1000)
    shelf.load(busy)
    moved = await shelf.archivist.move_out([snapshot], idle=900)
    assert (moved.objects, moved.busy) == (3, 1)
    assert [shelf.place(target) for target in (idle, busy)] == ["archived", "stored"]
    await shelf.check(snapshot)


async def test_looking_at_objects_does_not_make_them_busy(shelf):
    snapshot = shelf.snapshot()
    for target in shelf.targets(snapshot):
        age(shelf, target, 1000)
    assert await residency(shelf.control, sample_of(shelf.prefix, [snapshot])) == "stored"
    found = await look(shelf.control, shelf.targets(snapshot))
    assert all(where.idle >= 1000 for where in found)


async def test_under_an_lfu_policy_objects_have_no_idle_time_and_go_with_their_session(own_shelf):
    own_shelf.raw.config_set("maxmemory-policy", "volatile-lfu")
    snapshot = own_shelf.snapshot()
    assert (await own_shelf.archivist.move_out([snapshot], idle=900)).objects == 3


# ---- orphans and the condemned --------------------------------------------------


async def orphan(shelf, target, *, age):
    """What a move that began `age` s ago left behind when its process died."""
    clock = await read_clock(shelf.control, shelf.prefix)
    generation = Generation.new(clock.store, RANKS, clock.now - age)
    for name in all_ranks(target.names[0], target.ref, generation):
        shelf.archive.put(name, memoryview(b"x"))
    return generation


async def test_orphans_are_removed_when_they_are_old_and_never_anything_else(shelf):
    snapshot, stored = shelf.snapshot(), shelf.snapshot()
    await shelf.archivist.move_out([snapshot])
    live = shelf.files()
    for target in (*shelf.targets(snapshot), *shelf.targets(stored)):
        old = await orphan(shelf, target, age=ORPHAN_AGE + 1)
    half = all_ranks(target.names[0], target.ref, old)[0] + ".part"
    shelf.archive.put(half, memoryview(b"half"))
    young = await orphan(shelf, shelf.targets(stored)[0], age=ORPHAN_AGE - 30)
    other = Generation.new("f" * 16, 1, 0)  # another store's
    names = ObjectNames("other", FINGERPRINT, 0)
    kept = [
        *all_ranks(names, ObjectRef("kv", "ab" * 32), other),
        *all_ranks(names, shelf.targets(stored)[0].ref, young),
        f"{live[0]}.part",  # perhaps still being written
        f"{live[0].split('/')[0]}/a note of the administrator's",
    ]
    for name in kept:
        shelf.archive.put(name, memoryview(b"x"))
    removed = await collect_orphans(shelf.control, shelf.prefix, shelf.archive)
    assert removed == 6 * RANKS + 1
    assert set(shelf.files()) == {*live, *kept}


async def test_a_move_that_took_too_long_frees_nothing(shelf, monkeypatch):
    snapshot = shelf.snapshot()

    async def long_ago(control, prefix):
        clock = await read_clock(control, prefix)
        return clock._replace(now=clock.now - MOVE_LIMIT)

    monkeypatch.setattr("state_store.archive.archivist.read_clock", long_ago)
    assert await shelf.archivist.move_out([snapshot]) == Moved(left=3)
    await shelf.check(snapshot)


async def test_a_script_that_arrives_late_cannot_name_what_was_condemned(shelf):
    """The reply to `chill` was lost; before it is sent again the object is brought back."""
    snapshot = shelf.snapshot()
    calls = []
    run_many = shelf.archivist._control.run_many

    async def note(script, batch):
        if script == "chill":
            calls.extend(batch)
        return await run_many(script, batch)

    shelf.archivist._control.run_many = note
    await shelf.archivist.move_out([snapshot])
    await shelf.archivist.bring_back([snapshot])
    sent_again = [call for call in calls if call[1]]
    assert await run_many("chill", sent_again) == [b"condemned"] * 3
    await shelf.check(snapshot)


async def test_a_script_about_another_generation_changes_nothing(shelf):
    snapshot = shelf.snapshot()
    await shelf.archivist.move_out([snapshot])
    target = shelf.targets(snapshot)[0]
    cold = Generation.parse(shelf.raw.get(target.cold))
    shelf.write(target)
    headers = [value_of(names, target.ref)[:128] for names in target.names]
    keys = [target.pins, target.cold, target.condemned, *target.objects]
    other = Generation.new(cold.store, RANKS, cold.started)
    assert await shelf.control.run("chill", keys, str(other), 0, 1 << 40, *headers) == b"cold"
    assert await shelf.control.run("warm", keys, str(other), *headers) == b"moved"
    assert shelf.raw.get(target.cold) == str(cold).encode()
    assert shelf.raw.exists(*target.objects) == RANKS
    assert not shelf.raw.exists(target.condemned)


async def test_what_was_brought_back_is_kept_a_while_for_a_server_that_forgets_it(shelf):
    snapshot = shelf.snapshot()
    await shelf.archivist.move_out([snapshot])
    target = shelf.targets(snapshot)[0]
    cold = shelf.raw.get(target.cold)
    await shelf.archivist.bring_back([snapshot])
    await collect_condemned(shelf.control, shelf.prefix, shelf.archive)
    await collect_orphans(shelf.control, shelf.prefix, shelf.archive)
    # As after a crash, or a fail-over to a replica that lagged behind.
    shelf.raw.delete(target.condemned, *target.objects)
    shelf.raw.set(target.cold, cold)
    await shelf.check(snapshot)


@pytest.mark.parametrize("how", ["unpin", "drop_pin", "mend_cold"])
async def test_what_was_archived_long_ago_is_kept_a_while_after_it_was_let_go_of(
    shelf, monkeypatch, how
):
    """The wait counts from then on: a server may come back that does not know of it."""
    snapshot = shelf.snapshot()

    async def long_ago(control, prefix):
        clock = await read_clock(control, prefix)
        return clock._replace(now=clock.now - MOVE_LIMIT + 60)

    with monkeypatch.context() as patched:
        patched.setattr("state_store.archive.archivist.read_clock", long_ago)
        assert (await shelf.archivist.move_out([snapshot])).objects == 3
    target = shelf.targets(snapshot)[0]
    cold = shelf.raw.get(target.cold)
    keys = [target.pins, target.cold, target.condemned]
    if how == "unpin":
        shelf.unpin(target)
    elif how == "drop_pin":
        await shelf.control.run(how, keys, "one")
    else:
        shelf.raw.delete(target.pins)
        await shelf.control.run(how, keys, "cold-unheld", cold)
    assert not shelf.raw.exists(target.cold)
    waits = MOVE_LIMIT - 120
    collect = partial(collect_condemned, shelf.control, shelf.prefix, shelf.archive)
    assert (await collect(older_than=waits)).collected == 0
    shelf.raw.delete(target.condemned)  # as after a crash
    shelf.raw.set(target.cold, cold)
    shelf.raw.sadd(target.pins, "one")
    assert shelf.place(target) == "archived"
    await shelf.check(snapshot)


# ---- residency ---------------------------------------------------------------------


async def test_residency_follows_the_bytes(shelf):
    first, last = shelf.snapshot(pages=3), shelf.snapshot(pages=2)
    history = [first, last]

    async def where():
        return await residency(shelf.control, sample_of(shelf.prefix, history))

    assert await where() == "stored"
    await shelf.archivist.move_out([first])
    assert await where() == "partly"
    await shelf.archivist.move_out(history)
    assert await where() == "archived"
    await shelf.archivist.bring_back(history)
    assert await where() == "stored"
    shelf.raw.delete(shelf.targets(first)[0].objects[1])
    assert await where() == "lost"


async def test_residency_of_a_long_history_looks_at_its_state_and_both_ends(shelf):
    snapshot = shelf.snapshot(pages=200)
    for victim in (0, 199, 200):
        other = shelf.snapshot(pages=200)
        shelf.raw.delete(shelf.targets(other)[victim].objects[0])
        assert await residency(shelf.control, sample_of(shelf.prefix, [other])) == "lost"
    assert await residency(shelf.control, sample_of(shelf.prefix, [snapshot])) == "stored"
