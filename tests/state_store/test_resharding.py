"""Slots that move from one master to another while the store is in use: nothing goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from dataclasses import replace

import pytest
import redis
from author import Author
from servers import BUILDS, Cluster
from writer import commit, frame_of

from state_store.errors import StoreUnavailable
from state_store.files import FileSet
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.objects import ObjectClient
from state_store.payloads import Outcome
from state_store.routing import key_slot
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault

VALKEYS, *OTHERS = BUILDS
SLOWLY = [
    pytest.param(*one.values, id=one.id, marks=(*one.marks, pytest.mark.slow)) for one in OTHERS
]


@pytest.fixture(scope="module", params=[VALKEYS, *SLOWLY])
def cluster(request, tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster"), build=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def server(cluster):
    """What the other fixtures open."""
    return cluster


@pytest.fixture
async def impatient(cluster, prefix):
    """A store that does not wait for a migration to end."""
    async with await StateStore.connect(cluster.url, prefix=prefix, timeout=0.3) as opened:
        yield opened


def slot_of(lineage_or_session):
    return key_slot(f"{{{lineage_or_session}}}".encode())


async def during(move, work):
    """Run `work` while a slot is half moved, and finish moving it meanwhile."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0.1)
    await asyncio.to_thread(move.finish)
    return await task


async def delete_only(store, keys, session_id):
    """Delete a session, and unwind nothing."""
    beside = [keys.refs, keys.dead, keys.sessions]
    own = [keys.attachments(session_id), keys.feed(session_id), keys.usage, keys.tree]
    places = [keys.session(session_id), keys.lease(session_id), *beside, *own]
    await store._control.run("delete", places, session_id)


def half(move, rng):
    keys = move.keys()
    moved = rng.sample(keys, len(keys) // 2)
    if moved:
        move.move(*moved)


@pytest.mark.parametrize("seed", range(6))
async def test_a_lineage_that_is_half_moved_is_read_whole_or_waited_for(cluster, writer, seed):
    session = await writer.session(*([n * 10 + k for k in range(7)] for n in range(8)))
    expected = await writer.history(session.id)
    move = cluster.start_moving(slot_of(lineage_of(session.id)))
    half(move, random.Random(seed))
    assert await during(move, writer.history(session.id)) == expected
    assert await writer.problems() == []


async def test_a_read_that_cannot_be_whole_is_an_error_and_never_a_shorter_history(
    cluster, writer, impatient
):
    session = await writer.session(*([n * 10 + k for k in range(7)] for n in range(8)))
    expected = [s.id for s in await writer.store.ancestors(session.head)]
    keys = LineageKeys(writer.prefix, lineage_of(session.id))
    move = cluster.start_moving(slot_of(lineage_of(session.id)))
    for moved in ([0], [1, 2], [7], [3, 4, 5, 6]):
        move.move(*(keys.snapshot(expected[n]).encode() for n in moved))
        with contextlib.suppress(StoreUnavailable):
            assert [s.id for s in await impatient.ancestors(session.head)] == expected
    move.finish()
    assert [s.id for s in await impatient.ancestors(session.head)] == expected


@pytest.mark.parametrize("moved", [1, 2], ids=["half", "all"])
async def test_values_of_a_slot_that_is_half_moved_are_read_and_written_at_once(
    cluster, prefix, moved
):
    """Not only once the move has ended, which may take hours."""
    hasty = ObjectClient(cluster.url, timeout=0.5)
    values = {b"{%s}%d" % (prefix.encode(), n): bytes([n]) * 40_000 for n in range(2)}
    hasty.put([(key, memoryview(value)) for key, value in values.items()], ttl=60)
    move = cluster.start_moving(slot_of(prefix))
    try:
        move.move(*list(values)[:moved])
        into = [(key, memoryview(bytearray(40_000))) for key in (*values, *values)]
        assert hasty.get_into(into) == [40_000] * 4
        assert [bytes(view) for _, view in into] == [*values.values(), *values.values()]
        small = [(key + b"s", b"small") for key in values]
        assert hasty.set_small_nx(small, ttl=60) == [True, True]
        assert hasty.get_small([key for key, _ in small]) == [b"small", b"small"]
        assert hasty.exists(list(values)) == [True, True]
    finally:
        move.finish()
        hasty.close()


@pytest.mark.parametrize(
    ("share", "seed"), [("none", 0), ("dead", 0), *(("half", seed) for seed in range(6))]
)
async def test_a_history_that_is_deleted_while_it_moves_leaves_nothing(
    cluster, writer, prefix, share, seed
):
    session = await writer.session(range(6), range(6, 13), range(13, 20))
    keys = LineageKeys(prefix, lineage_of(session.id))
    move = cluster.start_moving(slot_of(lineage_of(session.id)))

    async def kill():
        await writer.store.delete_session(session.id)

    task = asyncio.create_task(kill())
    await asyncio.sleep(0.05)
    if share == "half":
        half(move, random.Random(seed))
    elif share == "dead":  # its members are named, and not there yet
        with contextlib.suppress(redis.RedisError):
            move.move(keys.dead.encode())
    await asyncio.sleep(0.1)
    await asyncio.to_thread(move.finish)
    await task
    assert await writer.problems() == []
    for member in cluster.masters:
        with member.client() as client:
            left = [k for k in client.scan_iter(f"{prefix}:*") if b"snapshot" in k or b"pins" in k]
            assert left == []


@pytest.mark.parametrize("moved", [[], ["dead"], ["dead", "refs"]])
async def test_unwinding_stopped_half_way_in_a_moving_slot_goes_on_later(
    cluster, writer, impatient, prefix, moved
):
    """The dead are named by a key of their own, which may move first, or lose its last member."""
    session = await writer.session(range(6), range(6, 13), range(13, 20))
    keys = LineageKeys(prefix, lineage_of(session.id))
    other = await writer.store.fork(session.id, snapshot_id=None)
    async with impatient._control.guard() as client:
        await client.hset(keys.session(session.id), "head", session.head)
    await writer.store.delete_session(other.id)
    await delete_only(impatient, keys, session.id)
    move = cluster.start_moving(slot_of(lineage_of(session.id)))
    for name in moved:
        move.move(getattr(keys, name).encode())
    with contextlib.suppress(StoreUnavailable):
        await impatient.recover(older_than=0)
    move.finish()
    await writer.store.recover(older_than=0)
    assert await writer.problems() == []
    for member in cluster.masters:
        with member.client() as client:
            left = [k for k in client.scan_iter(f"{prefix}:*") if b"snapshot" in k or b"pins" in k]
            assert left == []


@pytest.mark.parametrize("moved", ["files", "blob"])
async def test_files_that_move_while_their_snapshot_is_unwound_are_let_go_with_it(
    cluster, writer, impatient, prefix, moved
):
    store = writer.store
    session = await writer.session(range(8))
    keys = LineageKeys(prefix, lineage_of(session.id))
    base = session.head
    names = await store.files.put(session, [b"one", b"two", b"three"])
    named = await store.files.put_set(session, FileSet(b"body", tuple(names)))
    draft = replace(await writer.draft(session.id, range(8)), files=named)
    writer.put(draft)
    await commit(store, draft)
    await store.fork(session.id, snapshot_id=base)
    places = {"files": [keys.files(named)], "blob": [keys.blob(one) for one in names]}
    await delete_only(store, keys, session.id)
    move = cluster.start_moving(slot_of(lineage_of(session.id)))
    move.move(*(key.encode() for key in places[moved]))
    with contextlib.suppress(StoreUnavailable):
        await impatient.recover(older_than=0)
    move.finish()
    await store.recover(older_than=0)
    assert await writer.problems() == []
    async with store._control.guard() as client:
        assert await client.exists(keys.held_files) == 0
        assert {await client.ttl(key) > 0 for each in places.values() for key in each} == {True}
        assert await client.hget(keys.refs, base) == b"1"


async def test_turns_and_reads_go_on_while_slots_move_back_and_forth(cluster, writer, objects):
    """The lineage's own slot and those of its first pages travel all the while."""
    session = await writer.session(range(12))
    keys = {
        names.key(ref): frame_of(names, ref.kind, ref.page_hash)
        for snapshot in await writer.store.ancestors(session.head)
        for ref in snapshot.objects
        for names in writer.names()
    }
    slots = {slot_of(lineage_of(session.id)), *map(key_slot, keys)}
    stop = threading.Event()
    moved: set[int] = set()

    def move():
        while not stop.is_set():
            for slot in slots:
                cluster.start_moving(slot).finish()
                moved.add(slot)

    def read():
        while not stop.is_set():
            into = {key: memoryview(bytearray(len(frame))) for key, frame in keys.items()}
            sizes = objects.get_into(list(into.items()))
            assert sizes == [len(frame) for frame in keys.values()]
            assert {key: bytes(view) for key, view in into.items()} == keys

    async def write():
        expected, number = list(range(12)), 0
        while number < 12 or moved != slots:
            assert not any(other.done() for other in others)
            number += 1
            done = await writer.turn(session.id, [number] * 6)
            expected += [number] * 6
            assert done.snapshot.total_tokens == len(expected)
            assert await writer.history(session.id) == expected
            if number % 3 == 0:
                fork = await writer.store.fork(session.id)
                await writer.turn(fork.id, [500 + number] * 5)
                await writer.store.delete_session(fork.id)

    others = [asyncio.create_task(asyncio.to_thread(work)) for work in (move, read)]
    try:
        await write()
    finally:
        stop.set()
        await asyncio.gather(*others)
    await writer.store.recover(older_than=0)
    assert await writer.problems() == []
    await writer.store.delete_session(session.id)
    assert await writer.problems() == []


async def test_an_encrypted_session_is_written_read_and_shredded_while_its_slots_move(
    cluster, objects, prefix
):
    """Records and token log lie in one slot, each object in another, together with its seed."""
    vault = Vault([MasterKey(bytes(range(32)))])
    async with await StateStore.connect(cluster.url, prefix=prefix, vault=vault) as store:
        await store.create_tenant("ann", encrypted=True)
        author = Author(store, objects, prefix)
        session = await author.session("ann", range(6))
        first = await store.ancestors(session.head)
        page = author.names()[0].seed_key(first[0].objects[0])
        tenant = TenantKeys(prefix, "ann").record.encode()
        for slot in (slot_of(lineage_of(session.id)), key_slot(page)):
            move = cluster.start_moving(slot)
            half(move, random.Random(slot))
            await during(move, author.turn(session.id, range(7)))
            session = await store.session(session.id)
            history = await store.ancestors(session.head)
            assert set(await author.read(session, history)) == {Outcome.OK}
            assert (await store.check_integrity()).problems == []
        assert list(await store.tokens(session.head)) == [*range(6), *(2 * [*range(7)])]
        move = cluster.start_moving(key_slot(page))
        half(move, random.Random(1))
        assert await during(move, store.delete_tenant("ann")) == 1
        for member in cluster.masters:
            with member.client() as client:
                left = set(client.scan_iter(f"{prefix}:*"))
                kept = (b":fingerprint:", b":{operators}:tenants")
                assert {key for key in left if not any(one in key for one in kept)} <= {tenant}
