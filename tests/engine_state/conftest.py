import pytest

from engine.pool import EnginePool
from state_store.embedded import EmbeddedServer
from state_store.store import StateStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine_state")


@pytest.fixture(scope="module")
def store_server(folder):
    """The store outlives the engines of a module."""
    with EmbeddedServer(folder / "store") as server:
        yield server


@pytest.fixture
async def store(store_server):
    async with await StateStore.connect(store_server.url) as store:
        yield store


@pytest.fixture
async def engine(server, store):
    """The module's server, as a runtime sees it."""
    pool = EnginePool(store)
    yield await pool.pick()
    await pool.close()
