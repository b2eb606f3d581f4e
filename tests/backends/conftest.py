import pytest

from agent_runtime.bench.peers.gguf_file import write_gguf
from agent_runtime.sdk import Torpor
from engine.backends.settings import BackendSettings
from state_store.embedded import EmbeddedServer
from state_store.store import StateStore
from tests.backends.endpoint import Endpoint
from tests.backends.llama_server import LlamaServer
from tests.backends.scripted import client_of, scripted_runtime
from tests.engine_cpu.server import MODEL
from tests.serving import runtime_process

KEY_VARIABLE, KEY = "TORPOR_TEST_KEY", "sk-never-shown"


@pytest.fixture(scope="session")
def backends_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="session")
def llama(backends_folder):
    """llama.cpp's server with the demo model."""
    write_gguf(MODEL, backends_folder / "demo.gguf", tokenizer=True)
    server = LlamaServer(backends_folder / "demo.gguf", "demo")
    yield server
    server.close()


@pytest.fixture(scope="session")
def endpoint(llama):
    """llama.cpp, behind a server that can be told to misbehave."""
    server = Endpoint(llama.url)
    yield server
    server.close()


@pytest.fixture(scope="session")
def bare_store(backends_folder):
    with EmbeddedServer(backends_folder / "store") as server:
        yield server


@pytest.fixture(scope="session")
def log_file(backends_folder):
    return backends_folder / "runtime.log"


@pytest.fixture(scope="session")
def runtime(bare_store, endpoint, log_file):
    """A runtime without an engine and without a model: everything is the endpoint's."""
    backend = BackendSettings(url=endpoint.url, model="demo", key_variable=KEY_VARIABLE)
    process = runtime_process(
        bare_store.url,
        log_file,
        backend=backend,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        process.start()
    yield process
    process.stop()


@pytest.fixture
async def torpor(runtime):
    async with Torpor(runtime.url) as client:
        yield client


@pytest.fixture
async def store(bare_store):
    async with await StateStore.connect(bare_store.url) as store:
        yield store


@pytest.fixture(scope="session")
def scripted_endpoint():
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture(scope="session")
def chat_service(bare_store, scripted_endpoint, backends_folder):
    """A runtime over that endpoint, in a process of its own, for clients in other processes."""
    process = runtime_process(
        bare_store.url,
        backends_folder / "chat-runtime.log",
        backend=scripted_endpoint.url,
        options=["--set", "lease_ttl=2"],
    )
    with process:
        yield process


@pytest.fixture
def said(scripted_endpoint):
    """The endpoint: what it is to say, and what it was sent. All that it is to say is asked for."""
    scripted_endpoint.seen.clear()
    yield scripted_endpoint
    assert not scripted_endpoint.scripted


@pytest.fixture
async def scripted_app(bare_store, said):
    """A runtime in this process, over that endpoint."""
    async with scripted_runtime(bare_store.url, said) as app:
        yield app


@pytest.fixture
async def scripted(scripted_app):
    """OpenAI's own client of it."""
    async with client_of(scripted_app) as client:
        yield client
