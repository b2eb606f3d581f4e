"""A task that is cancelled ends, wherever it was, and nobody reads the replies that it left."""

from __future__ import annotations

import asyncio
import random

import pytest
from proxy import Proxy
from servers import Cluster, Sentinels
from writer import Writer

from state_store.connection import Control
from state_store.objects import ObjectClient
from state_store.store import StateStore

TASKS = 60


@pytest.fixture(scope="module", params=["one server", "dribbling", "sentinel", "cluster"])
def url(request, server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    if request.param == "cluster":
        with Cluster(folder) as cluster:
            yield cluster.url
    elif request.param == "sentinel":
        with Sentinels(folder) as sentinels:
            yield sentinels.url
    elif request.param == "dribbling":
        proxy = Proxy(folder / "proxy.sock", server.url)
        proxy.piece = 150  # a reply of these tests comes in several
        yield proxy.url
        proxy.close()
    else:
        yield server.url


@pytest.fixture
async def control(url):
    opened = await Control.connect(url, timeout=20.0)
    yield opened
    await opened.close()


@pytest.mark.parametrize("seed", range(4))
async def test_a_cancelled_task_ends_and_the_others_read_their_own_replies(control, prefix, seed):
    rng = random.Random(seed)

    async def work(number):
        key, value = f"{prefix}:{number}", str(number).encode() * 100
        async with control.guard() as client:
            await client.set(key, value)
            for _ in range(3):
                assert await client.get(key) == value
                pipeline = client.pipeline(transaction=False)
                for _ in range(4):
                    pipeline.get(key)
                assert await pipeline.execute() == [value] * 4

    for _ in range(5):
        tasks = [asyncio.create_task(work(number)) for number in range(TASKS)]
        cancelled = set()
        for _ in range(TASKS):
            await asyncio.sleep(rng.choice([0, 0, 0.001]))
            task = rng.choice(tasks)
            if not task.done():
                task.cancel()
                cancelled.add(task)
        await asyncio.wait(tasks)
        assert {task for task in tasks if task.cancelled()} == cancelled
        assert cancelled
        for task in set(tasks) - cancelled:
            task.result()


async def test_more_commands_than_connections_wait_for_their_turn(control, prefix):
    async with control.guard() as client:
        await client.set(prefix, 1)
        waiting = [client.get(prefix) for _ in range(300)]
        for _ in range(300):
            pipeline = client.pipeline(transaction=False)
            pipeline.get(prefix)
            waiting.append(pipeline.execute())
        replies = await asyncio.gather(*waiting)
    assert replies == [b"1"] * 300 + [[b"1"]] * 300


async def test_a_commit_that_is_cancelled_anywhere_leaves_the_old_head_or_the_new_one(url, prefix):
    client = ObjectClient(url, timeout=20.0)
    async with await StateStore.connect(url, prefix=prefix, timeout=20.0) as store:
        writer = Writer(store, client, prefix)
        session = await writer.session(range(6))
        expected = await writer.history(session.id)
        for steps in range(0, 60, 3):
            turn = [100 + steps] * 6
            draft = await writer.draft(session.id, turn)
            writer.put(draft)
            lease = await writer.lease(session.id)
            task = asyncio.create_task(store.commit(draft, lease=lease, durability="memory"))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await store.release(lease)
            history = await writer.history(session.id)
            assert history in (expected, expected + turn)
            if not task.cancelled():
                assert history == expected + turn
            expected = history
        await store.recover(older_than=0)
        assert await writer.problems() == []
        assert await writer.history(session.id) == expected
    client.close()
