"""The browser console on a session whose state an engine has."""

import re

import pytest
from playwright.async_api import expect

from agent_runtime.demo.script import SYSTEM
from agent_runtime.sdk import Torpor

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_session_is_talked_to_moved_and_exported(stage, registry, open_page, tmp_path):
    async with Torpor(stage.runtime.url) as torpor:
        session = await torpor.create(
            system=SYSTEM, tools=registry.specs(), labels={"name": "with state"}
        )
        page = await open_page(stage.runtime.url)
        await page.get_by_role("link", name="with state").click()
        await page.locator(".live.on").wait_for()
        message, log = page.get_by_label("Message", exact=True), page.get_by_role("log")
        await message.fill("What is 318 + 264?")
        await page.keyboard.press("Enter")
        await page.get_by_label("Result of calculator").fill("582")
        await page.get_by_role("button", name="Send the results").click()
        await expect(log.get_by_label("Tool result")).to_contain_text("582")
        await expect(log.get_by_label("Model").last).to_contain_text("582")
        await expect(page.locator(".usage").last).to_contain_text(re.compile(r"[1-9]\d* reused"))
        # What is read from the token ids says the same as what was streamed.
        shown = await log.locator(".message").all_inner_texts()
        await page.reload()
        await page.locator(".live.on").wait_for()
        assert await log.locator(".message").all_inner_texts() == shown
        rows = [row async for row in torpor.messages(session.id)][::-1]
        assert [row.role for row in rows] == [
            "system", "user", "assistant", "tool", "assistant"
        ]  # fmt: skip
        assert rows[2].tool_calls[0].name == "calculator"

        async def command(menu, name):
            await page.locator("summary", has_text=menu).click()
            await page.get_by_role("button", name=name).click()

        await command("State", "Hold on the device")
        await expect(page.get_by_text(re.compile("holds .* tokens for 600 s"))).to_be_visible()
        await command("State", "Where is it?")
        where = page.get_by_label("Where the state is")
        await expect(where).to_contain_text(re.compile(r"Heldfor \d+"))
        await command("State", "Release the hold")
        await expect(page.get_by_text("Released.")).to_be_visible()
        await page.get_by_role("button", name="Suspend").click()
        await expect(page.locator(".residency")).to_have_text("stored")
        await page.get_by_role("button", name="Resume").click()
        await expect(page.get_by_text(re.compile(r"Of \d+ tokens, [1-9]\d* can"))).to_be_visible()
        async with page.expect_download() as download:
            await command("More", "Export as a file")
        file = tmp_path / "session.torpor"
        await (await download.value).save_as(file)
        taken = await torpor.import_session(file)
        assert taken.tokens == (await torpor.get(session.id)).tokens

        # A message of one token's answer was cut off, and is gone on with.
        await page.get_by_text("Options of the turn").click()
        await page.get_by_label("Most tokens").fill("1")
        await message.fill("What is 20 + 22?")
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.get_by_text("It ended because of: length.")).to_be_visible()
        await page.get_by_label("Most tokens").fill("200")
        await page.get_by_role("button", name="Go on with the answer").click()
        await expect(page.get_by_text("The model waits for the result of a tool.")).to_be_visible()

        await page.get_by_role("link", name="Fleet").click()
        await expect(page.get_by_text("Ready: 1 engine registered in the store.")).to_be_visible()
        await expect(page.get_by_label("engine", exact=True)).to_contain_text(
            re.compile(r"Slots 0 of \d+")
        )
        for one in (session, taken):
            await torpor.delete(one.id)
