"""A vandal damages the store in every way; a check names it, and repair mends what it can."""

from __future__ import annotations

import asyncio
import secrets

import msgpack
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from vandal import DAMAGES, Scene
from writer import RANKS, Writer

from state_store.layout import LineageKeys, lineage_of
from state_store.objects import ObjectClient
from state_store.store import StateStore

TURNS = ([1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13])


async def scene_of(writer: Writer, raw: redis.Redis) -> Scene:
    """The victim: three turns and a fork of the second, beside a session of another lineage."""
    session = await writer.session(*TURNS)
    await writer.store.set_labels(session.id, {"colour": "blue"})
    history = await writer.store.ancestors(session.head)
    await writer.store.fork(session.id, snapshot_id=history[1].id)
    await writer.store.tenant("default")
    return Scene(raw, writer, session, history)


@pytest.fixture
async def scene(writer, raw):
    made = await scene_of(writer, raw)
    assert await writer.problems() == []
    return made


@pytest.fixture
async def bystander(writer, scene):
    """Whole, whatever happens to the scene."""
    return await writer.session([20, 21, 22, 23], [24, 25, 26, 27])


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
async def test_each_damage_is_found_named_and_mended_or_reported(scene, bystander, writer, damage):
    damage.do(scene)
    found = await writer.store.check_integrity()
    assert {problem.kind for problem in found.problems} == damage.kinds
    named = [problem.repairable for problem in found.problems]
    assert any(named) if damage.repairable else not all(named)
    left = await writer.store.check_integrity(repair=True)
    if damage.repairable:
        assert left.problems == []
        assert {problem.kind for problem in left.repaired} >= damage.kinds
    assert left.repairable == []
    assert await writer.history(bystander.id) == list(range(20, 28))
    again = await writer.store.check_integrity(repair=True)
    assert (again.problems, again.repaired) == (left.problems, [])


@pytest.mark.parametrize(
    "damage", [one for one in DAMAGES if one.repairable], ids=lambda damage: damage.name
)
async def test_what_repair_mends_it_mends_for_good(scene, bystander, writer, raw, damage):
    """All sessions still load and, once they are deleted, nothing is left behind."""
    damage.do(scene)
    await writer.store.check_integrity(repair=True)
    await writer.store.recover(older_than=0)
    histories = [await writer.history(one.id) for one in await writer.store.sessions("default")]
    whole = 9 if damage.name == "lose_the_way_to_a_snapshot" else 13
    expected = [range(1, 10), range(1, whole + 1), range(20, 28)]
    assert sorted(histories) == [list(tokens) for tokens in expected]
    for one in await writer.store.sessions("default"):
        await writer.store.delete_session(one.id)
    report = await writer.store.check_integrity()
    assert (report.problems, report.sessions, report.snapshots) == ([], 0, 0)
    left = {key.split(b":")[1] for key in raw.keys(f"{writer.prefix}:*")}
    left -= {b"{operators}"}  # the list of tenants
    assert not any(name.startswith(b"{") and b"tenant" not in name for name in left)
    assert not left & {b"pins", b"cold"}
    for key in raw.keys(f"{writer.prefix}:kv:*") + raw.keys(f"{writer.prefix}:state:*"):
        assert raw.ttl(key) >= 0


@pytest.mark.parametrize("order", [1, -1])
async def test_an_object_that_is_gone_cannot_be_pinned_again(scene, writer, order):
    by_name = {damage.name: damage for damage in DAMAGES}
    for name in ("unpin_an_object", "delete_an_object")[::order]:
        by_name[name].do(scene)
    for _ in range(2):
        report = await writer.store.check_integrity(repair=True)
        assert {problem.kind for problem in report.problems} == {"unpinned", "object-missing"}
        assert report.repairable == report.repaired == []


async def test_what_a_lost_record_may_have_held_is_kept_until_its_sessions_are_deleted(
    scene, writer, raw
):
    raw.delete(scene.keys.snapshot(scene.history[1].id))
    report = await writer.store.check_integrity(repair=True)
    assert {problem.kind for problem in report.problems} >= {"snapshot-record", "stray-pin"}
    assert report.repaired == []
    kept = scene.history[0]
    assert raw.exists(scene.keys.snapshot(kept.id), *(n.key(kept.objects[0]) for n in scene.names))
    for one in await writer.store.sessions("default"):
        await writer.store.delete_session(one.id)
    report = await writer.store.check_integrity(repair=True)
    assert report.problems == []
    await writer.store.recover(older_than=0)
    assert raw.keys(f"{writer.prefix}:pins:*") == []
    assert raw.keys(f"{writer.prefix}:{{{scene.keys.lineage}}}:*") == []


async def test_repair_beside_writers_harms_nothing(scene, writer, raw):
    """Sessions are made, committed, forked and deleted while everything is damaged and mended."""
    stop = asyncio.Event()
    repairable = [one for one in DAMAGES if one.kinds & {"references", "unpinned", "stray-pin"}]

    async def write() -> list[tuple[str, list[int]]]:
        kept = []
        for number in range(12):
            base = [1000 + 8 * number + step for step in range(8)]
            session = await writer.session(base[:4], base[4:])
            fork = await writer.store.fork(session.id)
            await writer.turn(fork.id, [1, 2, 3, 4])
            if number % 2:
                await writer.store.delete_session(fork.id)
                kept.append((session.id, base))
            else:
                await writer.store.delete_session(session.id)
                kept.append((fork.id, [*base, 1, 2, 3, 4]))
        stop.set()
        return kept

    async def vandalise() -> None:
        at = 0
        while not stop.is_set():
            one = repairable[at % len(repairable)]
            if one.repairable:
                one.do(scene)
                await writer.store.check_integrity(repair=True)
            at += 1

    kept, _ = await asyncio.gather(write(), vandalise())
    report = await writer.store.check_integrity(repair=True)
    assert report.problems == []
    for session_id, tokens in kept:
        assert await writer.history(session_id) == tokens


async def test_repair_leaves_the_unfinished_to_recovery(scene, writer, raw, prefix):
    """A commit in progress, one that was abandoned, and a deletion are no damage."""
    pins = scene.names[0].pins_key(scene.page)
    own = raw.smembers(pins)
    raw.sadd(pins, "11" * 16, "22" * 16)
    record = msgpack.packb({"at": 1.0, "snapshot": scene.head.pack()})
    raw.hset(scene.keys.journals, "11" * 16, record)
    raw.hset(scene.keys.aborted, "22" * 16, record)
    doomed = await writer.session([40, 41, 42, 43])
    keys = LineageKeys(prefix, lineage_of(doomed.id))
    raw.srem(keys.sessions, doomed.id)
    raw.zrem(keys.tree, doomed.id)
    raw.delete(keys.session(doomed.id))
    raw.hdel(keys.refs, doomed.head)
    raw.sadd(keys.dead, doomed.head)
    report = await writer.store.check_integrity(repair=True)
    assert (report.problems, report.repaired) == ([], [])
    assert raw.smembers(pins) == own | {b"11" * 16, b"22" * 16}
    assert (await writer.store.recover(older_than=0)).snapshots == 1
    assert raw.smembers(pins) == own
    assert (await writer.store.check_integrity()).problems == []


ALL = st.lists(st.sampled_from(DAMAGES), min_size=2, max_size=5, unique_by=lambda one: one.name)


@settings(max_examples=30, derandomize=True, database=None, deadline=None)
@given(damages=ALL)
def test_several_damages_at_once_are_mended_as_far_as_they_can_be(server, damages):
    async def scenario():
        prefix = f"t{secrets.token_hex(4)}"
        client = ObjectClient(server.url, timeout=5.0)
        async with await StateStore.connect(server.url, prefix=prefix) as store:
            writer = Writer(store, client, prefix)
            with redis.Redis.from_url(server.url) as raw:
                scene = await scene_of(writer, raw)
                bystander = await writer.session([20, 21, 22, 23], [24, 25, 26, 27])
                for damage in damages:
                    damage.do(scene)
                await store.check_integrity(repair=True)
                await store.recover(older_than=0)
                settled = await store.check_integrity(repair=True)
                assert settled.repairable == []
                if all(damage.repairable for damage in damages):
                    assert settled.problems == []
                again = await store.check_integrity(repair=True)
                assert (again.problems, again.repaired) == (settled.problems, [])
                mine = [p for p in again.problems if bystander.id in str(p)]
                assert [p for p in mine if p.kind != "session-record"] == []
                assert await writer.history(bystander.id) == list(range(20, 28))
                for snapshot in await store.ancestors(bystander.head):
                    for ref in snapshot.objects:
                        keys = [names.key(ref) for names in writer.names()]
                        assert raw.exists(*keys) == RANKS
                        assert {raw.ttl(key) for key in keys} == {-1}
        client.close()

    asyncio.run(scenario())
