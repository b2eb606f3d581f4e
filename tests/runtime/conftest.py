import httpx
import pytest

from agent_runtime.demo.script import SYSTEM, make_registry
from agent_runtime.demo.stage import Stage
from agent_runtime.sdk import Torpor
from state_store.store import StateStore


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """A real store, SGLang engine and runtime, each a process of its own."""
    folder = tmp_path_factory.mktemp("stage")
    stage = Stage(folder / "data", None, archive=f"file://{folder}/archive")
    (stage.files / "notes.txt").write_text(
        "The harbour is closed.\nA warranty is not given.\nNothing else.\n"
    )
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
    url = f"{stage.runtime.url}/v1/sessions"
    with httpx.Client(trust_env=False) as http:

        def sessions():
            return {session["id"] for session in http.get(url).raise_for_status().json()}

        before = sessions()
        yield
        for session_id in sessions() - before:
            http.delete(f"{url}/{session_id}").raise_for_status()
