import secrets

import pytest

from agent_runtime.demo.script import SYSTEM, make_registry
from agent_runtime.demo.stage import Stage
from agent_runtime.environment import variable
from agent_runtime.sdk import Torpor
from agent_runtime.sdk.sync import TorporSync
from engine.client import EngineClient, Sampling
from engine.pool import EnginePool
from state_store.store import StateStore


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """A real store, SGLang engine and runtime, each a process of its own."""
    folder = tmp_path_factory.mktemp("stage")
    key = folder / "master-key"
    key.write_text(secrets.token_hex(32))
    stage = Stage(
        folder / "data", None, archive=f"file://{folder}/archive", master_key=f"file:{key}"
    )
    (stage.files / "notes.txt").write_text(
        "The harbour is closed.\nA warranty is not given.\nNothing else.\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable("answer_tokens"), "128")  # the demo model may ramble
        stage.start(lambda _: None)
    yield stage
    stage.stop()


@pytest.fixture
async def torpor(stage):
    async with Torpor(stage.runtime.url) as client:
        yield client


@pytest.fixture
async def store(stage):
    async with await StateStore.connect(stage.store.url) as store:
        yield store


@pytest.fixture
async def flush(stage):
    """Empties the engine's device."""
    client = EngineClient(stage.engine.url)
    yield client.flush
    await client.close()


@pytest.fixture
async def continuation(stage):
    """Greedy, by an engine that may reuse nothing: the salt is another tenant's."""
    client = EngineClient(stage.engine.url)

    async def continuation(ids, length):
        sampling = Sampling(max_new_tokens=length, ignore_eos=True)
        chunks = client.generate(ids, sampling, salt=secrets.token_hex(8))
        return [token async for chunk in chunks for token in chunk.new_ids]

    yield continuation
    await client.close()


@pytest.fixture
async def engine(store):
    """As a runtime sees it."""
    pool = EnginePool(store)
    yield await pool.pick()
    await pool.close()


@pytest.fixture(scope="session")
def registry(stage):
    return make_registry(stage.files)


@pytest.fixture
async def session(torpor, registry):
    created = await torpor.create(system=SYSTEM, tools=registry.specs())
    yield created
    await torpor.delete(created.id)


@pytest.fixture(scope="module")
def nothing_left(stage):
    """Deletes at the end what was made by clients that do not know of sessions."""
    with TorporSync(stage.runtime.url) as torpor:
        before = {session.id for session in torpor.sessions()}
        yield
        for session in list(torpor.sessions()):
            if session.id not in before:
                torpor.delete(session.id)
