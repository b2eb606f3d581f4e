"""A browser, and a runtime over a scripted endpoint: no engine is needed to look at the console."""

import shutil

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright, expect

from agent_runtime.commands.processes import RuntimeProcess
from agent_runtime.sdk import Torpor
from engine.backends.settings import BackendSettings
from engine.launch import free_port
from state_store.embedded import EmbeddedServer
from tests.backends.endpoint import Endpoint

WAIT = 30_000  # milliseconds that something may take to be shown on a busy machine
# What Chromium itself writes of an answer that is no success; the console shows it to people.
expect.set_options(timeout=WAIT)
_REFUSAL = "Failed to load resource"


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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser():
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    assert program is not None, "scripts/setup.sh installs a browser"
    async with async_playwright() as playwright:
        # Its own sandbox needs rights that a container has not; only our pages are shown in it.
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser, runtime):
    """Opens pages of the console, each in a browser that knows nothing yet. At the end none may
    have written an error, nor met its own policy."""
    contexts, errors = [], []

    async def opened(url=None, **options):
        context = await browser.new_context(base_url=url or runtime.url, **options)
        contexts.append(context)
        context.set_default_timeout(WAIT)
        page = await context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                message.type in ("error", "warning")
                and not message.text.startswith(_REFUSAL)
                and errors.append(message.text)
            ),
        )
        await page.goto("/console")
        return page

    opened.errors = errors
    yield opened
    for context in contexts:
        await context.close()
    assert errors == []


@pytest_asyncio.fixture(loop_scope="session")
async def page(open_page):
    return await open_page()


@pytest_asyncio.fixture(loop_scope="session")
async def show(page, runtime):
    """Shows a session, and waits until it is followed."""

    async def shown(session_id, page=page):
        await page.goto(f"/console#/sessions/{session_id}")
        await page.locator(".live.on").wait_for()
        return page

    return shown
