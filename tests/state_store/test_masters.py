"""All masters of a cluster are asked, also new ones, at places that do not move meanwhile."""

from __future__ import annotations

import pytest
from servers import Cluster

from state_store.connection import Control
from state_store.durability import servers
from state_store.errors import DurabilityNotReached, StoreUnavailable
from state_store.masters import ClusterMasters
from state_store.objects import ObjectClient
from state_store.routing import key_slot
from state_store.store import StateStore


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path) as running:
        yield running


async def ports(control):
    infos = await control.on_masters(lambda master: master.exchange([("INFO", "server")]))
    return {info["tcp_port"] for (info,) in infos}


def slots_of(masters):
    return [key_slot(master.tag.encode()) for master in masters]


async def test_a_master_that_is_added_is_asked_although_no_command_of_ours_went_astray(
    cluster, prefix, monkeypatch
):
    monkeypatch.setattr("state_store.durability.CONFIRM_TIMEOUT", 0.3)
    key = f"{prefix}:new".encode()
    async with await StateStore.connect(cluster.url, prefix=prefix, timeout=10.0) as store:
        control = store._control
        assert await store.confirm("fsync") == "fsync"
        before = await servers(control)
        new = cluster.add()
        cluster.start_moving(key_slot(key), new).finish()
        objects = ObjectClient(cluster.url, timeout=10.0)
        objects.put([(key, memoryview(b"value"))], ttl=60)
        objects.close()
        assert await ports(control) == {member.port for member in cluster.masters}
        assert len(await servers(control) - before) == 1
        assert [found async for found in control.scan(f"{prefix}:new*")] == [[key]]
        with new.client() as client:
            client.config_set("appendfsync", "no")
        with pytest.raises(DurabilityNotReached, match="fsync was not confirmed"):
            await store.confirm("fsync")


async def test_a_master_that_has_given_up_its_slots_is_not_waited_for(cluster):
    async with await StateStore.connect(cluster.url, prefix="t", timeout=3.0) as store:
        new = cluster.add()
        cluster.start_moving(7, new).finish()
        assert new.port in await ports(store._control)
        cluster.start_moving(7, cluster.masters[0]).finish()
        assert await store.confirm("fsync") == "fsync"
        new.stop()
        assert await store.confirm("fsync") == "fsync"
        assert new.port not in await ports(store._control)


async def test_durability_is_confirmed_while_the_slot_of_a_marker_is_half_moved(cluster, prefix):
    async with await StateStore.connect(cluster.url, prefix=prefix, timeout=3.0) as store:
        assert await store.confirm("fsync") == "fsync"
        tags = slots_of(await store._control.masters())
        moves = [cluster.start_moving(slot) for slot in tags]
        for move in moves:
            assert move.keys()
            move.move(*move.keys())
        assert await store.confirm("fsync") == "fsync"
        for move in moves:
            move.finish()
        assert await store.confirm("fsync") == "fsync"


async def test_tags_lie_with_their_masters_and_not_where_they_should_not(cluster):
    control = await Control.connect(cluster.url, timeout=10.0)
    masters = ClusterMasters(control.redis)
    without: set[int] = set()
    for _ in range(4):
        found = await masters.find(without)
        owners = cluster.slots()
        assert {owners[slot] for slot in slots_of(found)} == set(cluster.masters)
        assert without.isdisjoint(slots_of(found))
        without.update(slots_of(found))
    await control.close()


async def test_a_master_of_one_slot_has_its_tag_there_also_if_it_should_not(cluster):
    new = cluster.add()
    cluster.start_moving(16_000, new).finish()
    control = await Control.connect(cluster.url, timeout=10.0)
    for without in (set(), {16_000}):
        found = await ClusterMasters(control.redis).find(without)
        assert slots_of(found).count(16_000) == 1
        assert len(found) == 4
    await control.close()


async def test_a_cluster_of_which_nobody_answers_is_told_of(cluster):
    control = await Control.connect(cluster.url, timeout=1.0)
    assert len(await control.masters()) == 3
    for member in cluster.members:
        member.kill()
    with pytest.raises(StoreUnavailable):
        await control.masters()
    await control.close()
