"""What a process leaves behind that dies is found by the runtimes that live, whenever it is."""

import asyncio
import contextlib

from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings
from engine.backends.settings import BackendSettings
from state_store.embedded import EmbeddedServer
from state_store.errors import StoreUnavailable
from state_store.layout import LineageKeys, lineage_of
from state_store.objects import ObjectClient
from state_store.store import StateStore
from tests.state_store.writer import Trips, Writer


async def test_a_commit_that_is_begun_while_a_runtime_serves_and_never_ended_is_cleaned_up(
    tmp_path,
):
    with EmbeddedServer(tmp_path / "store") as server:
        settings = RuntimeSettings(
            redis_url=server.url,
            backend=BackendSettings(url="http://127.0.0.1:9/v1", model="m"),
            lease_ttl=0.1,
            recovery_interval=0.2,
        )
        app = create_app(settings)
        client = ObjectClient(server.url, timeout=5)
        async with (
            app.router.lifespan_context(app),
            await StateStore.connect(server.url) as store,
            await StateStore.connect(server.url) as dying,
        ):
            session = await Writer(store, client, "torpor").session([1, 2, 3, 4])
            writer = Writer(dying, client, "torpor")
            draft = await writer.draft(session.id, [5, 6, 7, 8])
            writer.put(draft)
            trips = Trips(dying)
            journals = LineageKeys("torpor", lineage_of(session.id)).journals
            at = 0
            async with store._control.guard() as redis:
                while not await redis.hlen(journals):  # it dies a step later each time
                    at += 1
                    lease = await store.acquire(session.id, ttl=30, owner="dying")
                    trips.count, trips.crash_at = 0, ("after", at)
                    with contextlib.suppress(StoreUnavailable):
                        await dying.commit(draft, lease=lease, durability="memory")
                    await store.release(lease)
                async with asyncio.timeout(30):
                    while await redis.hlen(journals):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
            trips.crash_at = None
            assert (await store.session(session.id)).head == session.head
            assert (await store.check_integrity()).problems == []
        client.close()
