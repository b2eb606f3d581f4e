"""A drained engine is empty only once it does nothing more for turns. No model runs."""

import asyncio

import pytest

from engine.drain import drain
from engine.errors import EngineBusy
from engine.linker.config import settling
from engine.pool import EnginePool
from state_store.embedded import EmbeddedServer
from state_store.registry import CommandListener
from state_store.store import StateStore

from .pretended import Pretended

STORED = {"settled": True, "failed": 0, "turned_away": 0, "kv": [], "state": []}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("drained")) as server:
        yield server


@pytest.fixture
async def store(server):
    async with await StateStore.connect(server.url) as store:
        yield store


@pytest.fixture
async def pretended(server):
    made = Pretended(server.url, "e")
    storing = CommandListener(
        server.url,
        settling(made.record["boot_id"]),
        0,
        {"settle": lambda _: STORED},
        prefix="torpor",
    )
    storing.start()
    yield made
    await asyncio.to_thread(storing.stop)
    await asyncio.to_thread(made.end)


@pytest.fixture
async def engine(store, pretended):
    pool = EnginePool(store)
    yield await pool.named("e")
    await pool.close()


async def test_an_engine_that_stages_a_turns_state_is_not_empty(store, engine, pretended):
    """The turn's request has not come yet."""
    pretended.counts["commands_running"] = 1
    with pytest.raises(EngineBusy, match="0 requests and 1 commands"):
        await drain(store, engine, timeout=0)
    assert pretended.drained == [True]
    pretended.counts["commands_running"] = 0
    assert (await drain(store, engine, timeout=10)).shortfall is None


async def test_an_engine_that_runs_requests_is_not_empty(store, engine, pretended):
    pretended.loads[0]["num_waiting_reqs"] = 2
    with pytest.raises(EngineBusy, match="2 requests and 0 commands"):
        await drain(store, engine, timeout=0)
