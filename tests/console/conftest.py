"""A runtime over a scripted endpoint: no engine is needed to look at the console."""

import pytest
import pytest_asyncio

from agent_runtime.deployment import RuntimeProcess
from agent_runtime.sdk import Torpor
from engine.backends.settings import BackendSettings
from engine.launch import free_port
from state_store.embedded import EmbeddedServer
from tests.backends.endpoint import Endpoint


@pytest.fixture(scope="session")
def console_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("console")


@pytest.fixture(scope="session")
def console_store(console_folder):
    with EmbeddedServer(console_folder / "store") as server:
        yield server


@pytest.fixture(scope="session")
def console_endpoint():
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture(scope="session")
def make_runtime(console_store, console_endpoint, console_folder):
    """Makes runtimes over that store and that endpoint, with further options of `torpor serve`."""

    def made(*options, port=None):
        return RuntimeProcess(
            redis_url=console_store.url,
            archive=None,
            model=None,
            port=port or free_port(),
            log_file=console_folder / "runtime.log",
            backend=BackendSettings(url=console_endpoint.url, model="scripted"),
            options=["--set", "lease_ttl=2", *options],
        )

    return made


@pytest.fixture(scope="session")
def runtime(make_runtime):
    with make_runtime() as process:
        yield process


@pytest.fixture
def said(console_endpoint):
    """The endpoint: what it is to say, and what it was sent. All that it is to say is asked for."""
    console_endpoint.seen.clear()
    yield console_endpoint
    assert not console_endpoint.scripted


@pytest_asyncio.fixture(loop_scope="session")
async def torpor(runtime):
    async with Torpor(runtime.url) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def page(open_page, runtime):
    return await open_page(runtime.url)


@pytest_asyncio.fixture(loop_scope="session")
async def show(page):
    """Shows a session, and waits until it is followed."""

    async def shown(session_id, page=page):
        await page.goto(f"/console#/sessions/{session_id}")
        await page.locator(".live.on").wait_for()
        return page

    return shown
