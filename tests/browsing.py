"""A browser for tests of the console, one for all of them."""

import shutil

import pytest_asyncio

WAIT = 30_000  # milliseconds that something may take to be shown on a busy machine
# What Chromium itself writes of an answer that is no success; the console shows it to people.
_REFUSAL = "Failed to load resource"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser():
    from playwright.async_api import async_playwright, expect  # only where it is used

    expect.set_options(timeout=WAIT)
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    assert program is not None, "scripts/setup.sh installs a browser"
    async with async_playwright() as playwright:
        # Its own sandbox needs rights that a container has not; only our pages are shown in it.
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser):
    """Opens pages of the console, each in a browser that knows nothing yet. At the end none may
    have written an error, nor met its own policy."""
    contexts, errors = [], []

    async def opened(url, **options):
        context = await browser.new_context(base_url=url, **options)
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
