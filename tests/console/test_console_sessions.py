"""The list of sessions and one session's commands, as a person uses them in a browser."""

import asyncio
import dataclasses
import re
import threading

import pytest
from playwright.async_api import expect

from agent_runtime.sdk import ApiError
from tests.backends.scripted import says

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_sessions_are_listed_newest_first_a_page_at_a_time(page, torpor):
    made = [await torpor.create(labels={"name": f"chat {n}", "of": "paging"}) for n in range(55)]
    await torpor.create(labels={"name": "another", "of": "nothing"})
    await page.goto("/console")
    await expect(page.locator("tbody a.name").first).to_have_text("another")
    await page.get_by_label("Label", exact=True).fill("of=paging")
    await page.get_by_role("button", name="Filter").click()
    names = page.locator("tbody a.name")
    await expect(names.first).to_have_text("chat 54")
    assert await names.all_text_contents() == [f"chat {n}" for n in range(54, 4, -1)]
    await page.get_by_role("link", name="Next page").click()
    await expect(names.first).to_have_text("chat 4")
    assert await names.all_text_contents() == [f"chat {n}" for n in range(4, -1, -1)]
    await expect(page.get_by_role("link", name="Next page")).to_have_count(0)
    await page.go_back()
    await expect(names.first).to_have_text("chat 54")
    await page.get_by_role("button", name="Without of=paging").click()
    await expect(names.first).to_have_text("another")
    for session in made:
        await torpor.delete(session.id)


async def test_a_label_filters_and_what_is_no_label_is_not_asked_for(page, torpor):
    await torpor.create(labels={"name": "one", "team": "garden"})
    await torpor.create(labels={"name": "two", "team": "harbour"})
    await page.reload()
    await page.get_by_role("link", name="team=garden").first.click()
    await expect(page.locator("tbody a.name")).to_have_text(["one"])
    await page.get_by_label("Label", exact=True).fill("garden")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.get_by_text("Give NAME=VALUE.")).to_be_visible()
    await page.get_by_label("Residency").select_option("device")
    await expect(page.get_by_text("No session is like that.")).to_be_visible()


async def test_a_session_is_made_with_its_name_system_text_and_tools(page, torpor):
    await page.get_by_role("button", name="New session").click()
    dialog = page.get_by_role("dialog", name="New session")
    await dialog.get_by_label("Name (its label `name`)").fill("made here")
    await dialog.get_by_label("System text").fill("You are brief.")
    await dialog.get_by_text("Tools", exact=True).click()
    tools = dialog.get_by_label("A JSON list")
    await tools.fill("[")
    await dialog.get_by_role("button", name="Create").click()
    await expect(dialog.get_by_text("The tools are no JSON")).to_be_visible()
    await tools.fill('[{"name": "f", "description": "d", "parameters": 5}]')
    await dialog.get_by_role("button", name="Create").click()
    await expect(dialog.get_by_role("alert").filter(has_text="parameters")).to_be_visible()
    await tools.fill('[{"name": "f", "description": "d", "parameters": {"type": "object"}}]')
    await dialog.get_by_role("button", name="Create").click()
    await expect(page.get_by_role("heading", name="made here")).to_be_visible()
    session = await torpor.get(page.url.rpartition("/")[2])
    assert (session.labels, session.tools) == ({"name": "made here"}, ["f"])


async def test_labels_are_edited_and_kept_in_order_with_others(show, torpor):
    session = await torpor.create(labels={"name": "before", "team": "garden"})
    page = await show(session.id)
    await page.locator("summary", has_text="More").click()
    await page.get_by_role("button", name="Label the session").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Value").first.fill("after")
    await dialog.get_by_role("button", name="Add a label").click()
    await dialog.get_by_label("Name").last.fill("not a name")
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog.get_by_role("alert").filter(has_text="invalid_labels")).to_be_visible()
    await dialog.get_by_label("Name").last.fill("equation")
    await dialog.get_by_label("Value").last.fill("a=b")
    await dialog.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("heading", name="after")).to_be_visible()
    labels = (await torpor.get(session.id)).labels
    assert labels == {"name": "after", "team": "garden", "equation": "a=b"}


async def test_a_session_is_deleted_only_when_asked_twice(show, torpor):
    session = await torpor.create(labels={"name": "to be deleted"})
    page = await show(session.id)

    async def ask():
        await page.locator("summary", has_text="More").click()
        await page.get_by_role("button", name="Delete…").click()
        dialog = page.get_by_role("dialog", name="Delete the session")
        await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        return dialog

    await ask()
    await page.keyboard.press("Enter")  # on Cancel
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await ask()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert (await torpor.get(session.id)).id == session.id
    dialog = await ask()
    await dialog.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.get_by_role("heading", name="Sessions")).to_be_visible()
    with pytest.raises(ApiError, match="no session"):
        await torpor.get(session.id)


async def test_one_that_has_gone_on_elsewhere_is_not_deleted(show, torpor, said):
    session = await torpor.create()
    page = await show(session.id)
    await page.locator("summary", has_text="More").click()
    await page.get_by_role("button", name="Delete…").click()
    said.scripted.append(says({"content": "Elsewhere."}))
    await torpor.turn(session.id, "Hi")
    await page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    problem = page.get_by_role("dialog").get_by_role("alert")
    await expect(problem).to_contain_text("head_moved")
    await expect(problem).to_contain_text("decide again")
    assert (await torpor.get(session.id)).head is not None


async def test_what_others_do_is_shown_as_it_happens(show, torpor, said):
    session = await torpor.create(labels={"name": "live"})
    page = await show(session.id)
    release = threading.Event()
    answer = says({"content": "Said to another client."})
    said.scripted.append(dataclasses.replace(answer, after=release))
    turn = asyncio.create_task(torpor.turn(session.id, "Asked by another client."))
    log = page.get_by_role("log")
    await expect(log).to_contain_text("Asked by another client.")
    await expect(page.get_by_role("button", name="Cancel the turn")).to_be_visible()
    release.set()
    await turn
    await expect(log).to_contain_text("Said to another client.")
    await expect(page.locator(".commit")).to_have_count(2)
    await torpor.rewind(session.id, snapshot="")
    await expect(log).to_contain_text("Nothing was said yet.")
    await torpor.delete(session.id)
    await expect(page.get_by_text("This session was deleted.")).to_be_visible()


async def test_suspending_says_what_was_confirmed_and_refusals_say_what_to_do(show, torpor, said):
    session = await torpor.create()
    said.scripted.append(says({"content": "Yes."}))
    await torpor.turn(session.id, "Hi")
    page = await show(session.id)
    await page.get_by_role("button", name="Suspend").click()
    await expect(page.get_by_text(re.compile("Suspended: fsync"))).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("the backend keeps no state")).to_be_visible()
    await page.locator("summary", has_text="More").click()
    await page.get_by_role("button", name="Export as a file").click()
    await expect(page.get_by_role("alert")).to_contain_text("needs_state")


async def test_a_session_that_is_not_there_is_said_so(page):
    await page.goto("/console#/sessions/ses-0000000000000000-0000000000000000")
    await expect(page.get_by_role("alert")).to_contain_text("not_found")
    await expect(page.get_by_role("alert")).to_contain_text("Go back to the list")


async def test_the_fleet_says_whether_a_turn_could_be_served(page):
    await page.get_by_role("link", name="Fleet").click()
    await expect(
        page.get_by_text("Ready: 0 engines registered in the store, and the backend scripted")
    ).to_be_visible()
    await expect(page.get_by_text("has scheduled no turn on an engine yet")).to_be_visible()
    assert await page.title() == "Fleet · Torpor"
