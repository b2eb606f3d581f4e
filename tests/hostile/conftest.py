import asyncio

import pytest

from state_store.embedded import EmbeddedServer
from state_store.store import StateStore
from tests.backends.endpoint import DONE, USAGE, Endpoint, Scripted, event
from tests.engine_cpu.server import MODEL
from tests.serving import runtime_process

ANSWER = Scripted(event({"content": "816."}) + event(finish_reason="stop") + USAGE + DONE)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="session")
def endpoint():
    server = Endpoint(always=ANSWER)
    yield server
    server.close()


@pytest.fixture(scope="session")
def bare_store(folder):
    with EmbeddedServer(folder / "store") as server:
        yield server


@pytest.fixture(scope="session")
def key(bare_store):
    """Of an admin."""

    async def made():
        async with await StateStore.connect(bare_store.url) as store:
            await store.tenant("acme")
            _, text = await store.keys.create("acme", role="admin")
            return text

    return asyncio.run(made())


@pytest.fixture(scope="session")
def start(folder, bare_store, endpoint):
    """Starts runtimes that have a tokenizer and a scripted endpoint, and no engine."""
    started = []

    def runtime(*options):
        process = runtime_process(
            bare_store.url,
            folder / "runtime.log",
            model=MODEL,
            backend=endpoint.url,
            options=options,
        )
        process.start()
        started.append(process)
        return process

    yield runtime
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def runtime(start):
    return start()


@pytest.fixture(scope="session")
def keyed(start, key):
    return start("--require-keys")
