"""Whoever waits for an engine's offloads keeps no other command of that engine waiting."""

import asyncio
import threading

import pytest

from engine.errors import EngineUnreachable
from engine.linker.config import prefetching, settling
from engine.pool import EnginePool
from state_store.embedded import EmbeddedServer
from state_store.errors import ArchiveUnavailable
from state_store.registry import CommandListener
from state_store.store import StateStore

from .pretended import Pretended


def fail(payload):
    raise ArchiveUnavailable("the bucket is silent")


async def test_what_an_engine_could_not_do_is_not_told_as_silence(tmp_path):
    with EmbeddedServer(tmp_path / "store") as server:
        engine_side = Pretended(server.url, "e")
        listener = CommandListener(
            server.url, prefetching("boot of e"), 0, {"prefetch": fail}, prefix="torpor"
        )
        listener.start()
        async with await StateStore.connect(server.url) as store:
            pool = EnginePool(store)
            async with asyncio.timeout(30):
                while not await pool.records():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            engine = await pool.pick()
            said = (
                "e could not do prefetch: rank 0 failed: ArchiveUnavailable: the bucket is silent"
            )
            with pytest.raises(EngineUnreachable, match=said):
                await engine.prefetch(["0" * 64], timeout=20)
            await pool.close()
        await asyncio.to_thread(listener.stop)
        await asyncio.to_thread(engine_side.end)


async def test_a_settle_waits_as_long_as_its_caller_and_alone(tmp_path):
    stored, asked = threading.Event(), []

    def settle(payload):
        asked.append(payload["timeout"])
        stored.wait()
        return {"settled": True, "failed": 0, "turned_away": 0, "kv": [], "state": []}

    with EmbeddedServer(tmp_path / "store") as server:
        engine_side = Pretended(server.url, "e")
        boot = engine_side.record["boot_id"]
        listeners = [
            CommandListener(server.url, settling(boot), 0, {"settle": settle}, prefix="torpor"),
            CommandListener(
                server.url, boot, 0, {"renew": lambda _: {"forgotten": 3}}, prefix="torpor"
            ),
        ]
        for listener in listeners:
            listener.start()
        async with await StateStore.connect(server.url) as store:
            pool = EnginePool(store)
            async with asyncio.timeout(30):
                while not await pool.records():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                engine = await pool.pick()
                settled = asyncio.create_task(engine.settle([], timeout=100))
                while not asked:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert await engine.renew([], timeout=10) == 3
                assert not settled.done()
                stored.set()
                assert (await settled).reason is None
            assert asked == [100]
            await pool.close()
        for part in (*listeners, engine_side):
            await asyncio.to_thread(getattr(part, "stop", None) or part.end)
