import pytest

from state_store.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine_state")


@pytest.fixture(scope="module")
def store_server(folder):
    """The store outlives the engines of a module."""
    with EmbeddedServer(folder / "store") as server:
        yield server
