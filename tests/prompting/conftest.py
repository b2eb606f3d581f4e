import pytest

from state_store.embedded import EmbeddedServer

from .desk import Checkpoint
from .templates import TEMPLATES, checkpoint


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("prompting")) as server:
        yield server


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """By the name of their template."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: Checkpoint(checkpoint(folder, name)) for name in TEMPLATES}
