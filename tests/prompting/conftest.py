import pytest

from state_store.embedded import EmbeddedServer
from state_store.objects import ObjectClient
from state_store.store import StateStore

from .desk import Checkpoint
from .templates import TEMPLATES, checkpoint


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("prompting")) as server:
        yield server


@pytest.fixture(scope="session")
def objects(server):
    client = ObjectClient(server.url, timeout=5.0)
    yield client
    client.close()


@pytest.fixture
async def store(server):
    async with await StateStore.connect(server.url) as store:
        yield store


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """By the name of their template."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: Checkpoint(checkpoint(folder, name)) for name in TEMPLATES}
