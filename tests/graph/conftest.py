"""One store for the tests of checkpoints and memories; each has keys of its own there."""

import secrets

import pytest

from agent_runtime.saver import TorporSaver
from state_store.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("graph") / "data") as running:
        yield running


@pytest.fixture
def own_server(tmp_path):
    with EmbeddedServer(tmp_path / "store") as running:
        yield running


@pytest.fixture
async def saver(server):
    async with await TorporSaver.connect(server.url, prefix=f"t{secrets.token_hex(4)}") as opened:
        yield opened
