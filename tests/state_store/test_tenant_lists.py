"""Tenants, and those with unfinished sessions, are listed: nobody looks at every key for them."""

from __future__ import annotations

import time

import pytest
from servers import Cluster
from writer import Trips, Writer

from state_store.errors import InvalidArgument
from state_store.layout import OperatorKeys, TenantKeys
from state_store.objects import ObjectClient
from state_store.store import StateStore
from state_store.unfinished import Begun

NAMES = [f"n{number:02}" for number in range(9)]


async def listed(store, limit=1000):
    names, after = [], None
    while True:
        page, after = await store.page_of_tenants(limit=limit, after=after)
        assert len(page) == limit or after is None
        names += [tenant.name for tenant in page]
        if after is None:
            return names


async def unfinished(store):
    return sorted([(one.tenant, one.session_id) async for one in store.unfinished.every()])


def commands(raw):
    """How often each was run."""
    stats = raw.info("commandstats").items()
    return {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats}


@pytest.mark.parametrize("limit", [1, 2, 9, 1000])
async def test_tenants_are_listed_by_name_in_pages(store, limit):
    for name in reversed(NAMES):
        await store.tenant(name)
    await store.create_tenant("made")
    await store.delete_tenant(NAMES[3])
    await store.delete_tenant(NAMES[8])
    left = [name for name in NAMES if name not in (NAMES[3], NAMES[8])]
    assert await listed(store, limit) == ["made", *left]
    await store.create_tenant(NAMES[3])
    assert NAMES[3] in await listed(store, limit)
    with pytest.raises(InvalidArgument):
        await store.page_of_tenants(limit=0)


async def test_lists_are_read_at_the_same_cost_however_many_keys_there_are(store, raw, prefix):
    for name in NAMES:
        await store.tenant(name)
    await store.unfinished.put(Begun("n01", "ses-1", None, 1.0))

    async def cost(operation):
        before = commands(raw)
        await operation()
        after = commands(raw)
        costs = {name: n - before.get(name, 0) for name, n in after.items() if name != "info"}
        return {name: count for name, count in costs.items() if count}

    async def page():
        assert len((await store.page_of_tenants(limit=4))[0]) == 4

    async def look():
        assert await unfinished(store) == [("n01", "ses-1")]

    few = [await cost(operation) for operation in (page, look)]
    for number in range(3000):
        raw.set(f"{prefix}:{{tenant:t{number}}}:usage", 1)
    for number in range(300):
        await store.tenant(f"other{number}")
    assert [await cost(operation) for operation in (page, look)] == few
    assert few[0]["get"] == 5
    assert "scan" not in {name for cost in few for name in cost}


@pytest.mark.parametrize("doing", ["create", "delete"])
async def test_a_tenant_whose_maker_dies_is_listed_if_it_is_there(store, server, prefix, doing):
    at, crashed = 0, True
    while crashed:
        at += 1
        name = f"{doing}-{at}"
        if doing == "delete":
            await store.create_tenant(name)
        async with await StateStore.connect(server.url, prefix=prefix) as dying:
            Trips(dying).crash_at = ("amid" if at % 2 else "after", 1 + at // 2)
            try:
                await (
                    dying.create_tenant(name) if doing == "create" else dying.delete_tenant(name)
                )
                crashed = False
            except Exception:
                crashed = True
        assert set(await listed(store)) == await there(store, prefix)
        if at % 3:
            await store.recover(older_than=0)
        else:
            await store.check_integrity(repair=True)
        assert (await store.check_integrity()).problems == []
        assert set(await listed(store)) == await there(store, prefix)
    assert at > 2


async def there(store, prefix):
    """Names of tenants that have a record and were not deleted, from all keys."""
    found = set()
    async for keys in store._control.scan(f"{prefix}:{{tenant:*}}:record"):
        for key in keys:
            name = key.decode().partition("{tenant:")[2].partition("}")[0]
            if not await store._tenants.is_deleted(name):
                found.add(name)
    return found


@pytest.mark.parametrize("mend", ["recover", "repair"])
async def test_lists_that_are_lost_are_made_again(store, raw, prefix, mend):
    for name in NAMES[:3]:
        await store.tenant(name)
    await store.unfinished.put(Begun("n01", "ses-1", None, 1.0))
    keys = OperatorKeys(prefix)
    raw.delete(keys.tenants, keys.unfinished)
    raw.zadd(keys.tenants, {"nobody": 0})
    assert await listed(store) == []
    assert await unfinished(store) == []
    found = {(one.kind, one.subject) for one in (await store.check_integrity()).problems}
    assert found == {
        *(("unlisted-tenant", name) for name in (*NAMES[:3], "nobody")),
        ("unlisted-unfinished", "n01"),
    }
    if mend == "recover":
        await store.recover(older_than=0)
    else:
        assert (await store.check_integrity(repair=True)).problems == []
    assert (await store.check_integrity()).problems == []
    assert raw.zrange(keys.tenants, 0, -1) == [name.encode() for name in NAMES[:3]]
    assert await unfinished(store) == [("n01", "ses-1")]


@pytest.mark.parametrize("mend", ["recover", "repair"])
async def test_a_key_of_no_tenant_keeps_no_tenant_from_being_listed_again(store, raw, prefix, mend):
    await store.unfinished.put(Begun("n01", "ses-1", None, 1.0))
    raw.delete(OperatorKeys(prefix).unfinished)
    raw.hset(f"{prefix}:{{tenant:no name}}:unfinished", "ses-1", "a row")
    if mend == "recover":
        await store.recover(older_than=0)
    else:
        await store.check_integrity(repair=True)
    assert await unfinished(store) == [("n01", "ses-1")]


async def test_a_tenant_without_unfinished_sessions_is_taken_off_their_list_in_time(
    store, raw, prefix
):
    key = OperatorKeys(prefix).unfinished
    for name in ("old", "new", "kept"):
        await store.unfinished.put(Begun(name, "ses-1", "snp-1", 1.0))
    for name in ("old", "new"):
        await store.unfinished.drop(name, "ses-1")
    raw.zadd(key, {"old": time.time() - 100, "kept": time.time() - 100})
    assert await unfinished(store) == [("kept", "ses-1")]
    assert set(raw.zrange(key, 0, -1)) == {b"new", b"kept"}


async def test_unfinished_sessions_that_cannot_be_read_keep_nobody_from_the_others(
    store, raw, prefix, caplog
):
    for name in ("a", "b", "c"):
        await store.unfinished.put(Begun(name, "ses-1", None, 1.0))
    raw.hset(TenantKeys(prefix, "a").unfinished, "ses-1", b"\xc1")
    raw.delete(TenantKeys(prefix, "b").unfinished)
    raw.set(TenantKeys(prefix, "b").unfinished, "of a wrong type")
    raw.zadd(OperatorKeys(prefix).unfinished, {"no tenant's name": 1})
    assert await unfinished(store) == [("c", "ses-1")]
    assert caplog.text.count("left alone") == 1
    assert caplog.text.count("recovery goes on without") == 2


async def test_in_a_cluster_too(tmp_path):
    with Cluster(tmp_path / "cluster") as cluster:
        objects = ObjectClient(cluster.url, timeout=5.0)
        async with await StateStore.connect(cluster.url, prefix="p") as store:
            await Writer(store, objects, "p").session([1])
            for name in NAMES:
                await store.tenant(name)
                await store.unfinished.put(Begun(name, "ses-1", None, 1.0))
            await store.delete_tenant("n04")
            left = [name for name in NAMES if name != "n04"]
            assert [name for name in await listed(store, 2) if name in NAMES] == left
            assert [tenant for tenant, _ in await unfinished(store)] == left
            assert (await store.check_integrity()).problems == []
            await store.recover(older_than=0)
            assert [name for name in await listed(store, 2) if name in NAMES] == left
        objects.close()
