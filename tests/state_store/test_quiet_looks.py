"""Looking at a store is not using it: idle times stay what they were."""

from __future__ import annotations

import logging

import pytest
import redis
from servers import BUILDS, Cluster, Server
from writer import RANKS, Writer

from state_store.objects import ObjectClient
from state_store.store import StateStore

AGE = 5000  # seconds


def age(raw, prefix):
    """Make every object look as if nobody had used it for long; their keys."""
    keys = [key for kind in ("kv", "state") for key in raw.scan_iter(f"{prefix}:{kind}:*")]
    for key in keys:
        raw.restore(key, 0, raw.dump(key), replace=True, idletime=AGE)
    return keys


async def look_at_everything(store, session):
    assert (await store.check_integrity()).problems == []
    await store.tokens(session.head)
    assert await store.residency(session.id) == "stored"


@pytest.mark.parametrize("build", BUILDS)
async def test_a_check_of_the_store_leaves_idle_times_or_says_that_it_cannot(
    tmp_path, build, caplog
):
    with Server(tmp_path / "own", build=build) as server, server.client() as raw:
        client = ObjectClient(server.url, timeout=5.0)
        async with await StateStore.connect(server.url, prefix="p") as store:
            session = await Writer(store, client, "p").session(range(12))
            keys = age(raw, "p")
            with caplog.at_level(logging.WARNING):
                await look_at_everything(store, session)
            idle = [raw.object("idletime", key) for key in keys]
        client.close()
        version = tuple(map(int, raw.info("server")["redis_version"].split(".")[:2]))
    assert len(idle) == 4 * RANKS
    if version >= (7, 2):
        assert min(idle) >= AGE
        assert "NO-TOUCH" not in caplog.text
    else:
        assert max(idle) < AGE
        assert caplog.text.count("no CLIENT NO-TOUCH") == 1


async def test_loading_an_object_is_using_it(server, writer, raw, prefix):
    await writer.session(range(12))
    key, *_ = age(raw, prefix)
    writer.client.get_into([(key, memoryview(bytearray(1024)))])
    assert raw.object("idletime", key) < AGE


async def test_on_a_cluster_too(tmp_path):
    with Cluster(tmp_path / "cluster") as cluster:
        client = ObjectClient(cluster.url, timeout=5.0)
        async with await StateStore.connect(cluster.url, prefix="p") as store:
            session = await Writer(store, client, "p").session(range(40))
            keys = {}
            for member in cluster.masters:
                with member.client() as raw:
                    keys[member] = age(raw, "p")
            await look_at_everything(store, session)
            for member, held in keys.items():
                with member.client() as raw:
                    assert all(raw.object("idletime", key) >= AGE for key in held)
        assert sum(map(len, keys.values())) == 11 * RANKS
        client.close()


async def test_who_may_not_ask_for_it_is_told_so_and_works(own_server, caplog):
    with redis.Redis.from_url(own_server.url) as raw:
        raw.execute_command(
            "ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-client|no-touch"
        )
    url = f"{own_server.url}?username=limited&password=secret"
    async with await StateStore.connect(url, prefix="p") as store:
        assert (await store.check_integrity()).problems == []
    assert "are only looked at for used" in caplog.text
