"""The tree in the console: a graph of snapshots to fork from and to rewind to."""

import pytest
from playwright.async_api import expect

from agent_runtime.messages.message_log import words_of
from state_store.records import SnapshotDraft
from state_store.store import StateStore
from tests.backends.scripted import says

pytestmark = pytest.mark.asyncio(loop_scope="session")


def short(id):
    return id.rpartition("-")[2][:8]


async def talk(torpor, said, session_id, *texts):
    """A turn for each; their snapshots."""
    made = []
    for text in texts:
        said.scripted.append(says({"content": f"To {text}."}))
        made.append((await torpor.turn(session_id, text)).snapshot)
    return made


@pytest.fixture
def rows(page):
    return page.locator(".commit")


async def test_forks_are_branches_and_heads_are_refs(show, rows, torpor, said):
    session = await torpor.create(labels={"name": "main"})
    a, b = await talk(torpor, said, session.id, "a", "b")
    fork = await torpor.fork(session.id, snapshot=a, labels={"name": "side"})
    (c,) = await talk(torpor, said, fork.id, "c")
    page = await show(session.id)
    await expect(rows).to_have_count(4)
    texts = await rows.all_inner_texts()
    assert [short(one) in text for one, text in zip((c, b, a), texts, strict=False)] == [True] * 3
    assert ["side" in texts[0], "head" in texts[1], "head" in texts[2]] == [True, True, False]
    assert "before the first turn" in texts[3]
    # The session's own history is one lane, the fork another that ends where both were one.
    places = [await rows.nth(n).locator("circle").get_attribute("cx") for n in range(4)]
    assert places[1:] == [places[1]] * 3
    assert places[0] != places[1]
    assert await rows.nth(2).locator("path.lane-1").count() == 1
    # Work elsewhere in the tree is seen when it is read anew; the fork's page shows it as its own.
    await page.get_by_label("Snapshots, newest first").get_by_text("side").click()
    await page.get_by_role("link", name="side").click()
    await expect(page.get_by_role("heading", name="side")).to_be_visible()
    await expect(page.get_by_role("log")).to_contain_text("To c.")
    await expect(page.get_by_role("log").get_by_text("To b.")).to_have_count(0)
    await show(session.id)
    await rows.filter(has_text=short(c)).click()  # of another branch than the session's
    await page.get_by_role("button", name="Fork from here").click()
    await expect(page.get_by_role("log")).to_contain_text("To c.")
    other = await torpor.get(page.url.rpartition("/")[2])
    assert (other.head, other.forked_from) == (c, session.id)


async def test_a_snapshot_tells_what_it_is_and_shares_and_is_forked_from(show, rows, torpor, said):
    session = await torpor.create()
    first, second, third = await talk(torpor, said, session.id, "a", "b", "c")
    page = await show(session.id)
    await rows.filter(has_text=short(second)).click()
    details = page.get_by_label("The snapshot that is chosen")
    await expect(details).to_contain_text("Shares with its parent")
    await expect(details).to_contain_text(f"11 tokens (100 %) with {short(first)}")
    await expect(details).to_contain_text(second)
    await expect(page.locator(".marked")).to_contain_text(["b"])
    await details.get_by_role("button", name="Label it").click()
    dialog = page.get_by_role("dialog", name="Labels of the snapshot")
    await dialog.get_by_label("Name").fill("point")
    await dialog.get_by_label("Value").fill("good")
    await dialog.get_by_role("button", name="Save").click()
    await expect(rows.filter(has_text=short(second))).to_contain_text("point=good")
    await details.get_by_role("button", name="Fork from here").click()
    await expect(page.get_by_text("Nothing was copied.")).to_be_visible()
    await expect(page.get_by_role("log")).to_contain_text("To b.")
    fork = await torpor.get(page.url.rpartition("/")[2])
    assert (fork.forked_from, fork.head) == (session.id, second)
    await rows.filter(has_text=short(third)).click()
    await details.get_by_role("button", name="Compare with the head").click()
    await expect(details).to_contain_text("this one")
    await expect(details).to_contain_text("One goes on where the other ends.")


async def test_a_session_is_rewound_to_a_snapshot_when_asked_twice(show, rows, torpor, said):
    session = await torpor.create()
    first, second = await talk(torpor, said, session.id, "a", "b")
    page = await show(session.id)
    await rows.filter(has_text=short(first)).click()
    details = page.get_by_label("The snapshot that is chosen")
    await details.get_by_role("button", name="Rewind to here").click()
    await page.keyboard.press("Escape")
    assert (await torpor.get(session.id)).head == second
    await details.get_by_role("button", name="Rewind to here").click()
    dialog = page.get_by_role("dialog", name="Rewind the session")
    await expect(dialog).to_contain_text("is let go, unless a fork has it")
    await dialog.get_by_role("button", name="Rewind", exact=True).click()
    await expect(rows).to_have_count(2)
    await expect(rows.first).to_contain_text("head")
    assert (await torpor.get(session.id)).head == first
    await expect(page.get_by_role("log").get_by_text("To b.")).to_have_count(0)


async def test_the_keyboard_alone_is_enough(show, rows, page, torpor, said):
    session = await torpor.create(labels={"name": "by keys"})
    first, _ = await talk(torpor, said, session.id, "a", "b")
    await page.reload()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    link = page.get_by_role("link", name="by keys", exact=True)
    for _ in range(12):
        await page.keyboard.press("Tab")
        if await link.evaluate("(node) => node === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await page.locator(".live.on").wait_for()
    message = page.get_by_label("Message", exact=True)
    for _ in range(30):
        await page.keyboard.press("Tab")
        if await message.evaluate("(node) => node === document.activeElement"):
            break
    await page.keyboard.type("typed")
    said.scripted.append(says({"content": "read"}))
    await page.keyboard.press("Enter")
    await expect(page.locator(".usage")).to_be_visible()
    graph = page.get_by_role("listbox", name="Snapshots, newest first")
    for _ in range(10):
        await page.keyboard.press("Tab")
        if await graph.evaluate("(node) => node === document.activeElement"):
            break
    await page.keyboard.press("End")
    await page.keyboard.press("ArrowUp")
    chosen = page.locator(".commit[aria-selected='true']")
    await expect(chosen).to_contain_text(short(first))
    assert await graph.get_attribute("aria-activedescendant") == await chosen.get_attribute("id")
    await page.keyboard.press("Tab")  # into the details
    await expect(page.get_by_role("button", name="Fork from here")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("Nothing was copied.")).to_be_visible()
    await expect(page.locator("main")).to_be_focused()


async def test_a_thousand_snapshots_stay_usable(show, rows, torpor, said, console_store):
    session = await torpor.create(labels={"name": "long"})
    await talk(torpor, said, session.id, "a")
    async with await StateStore.connect(console_store.url) as store:
        lease = await store.acquire(session.id, ttl=60, owner="test")
        now = await store.session(session.id)
        head = await store.snapshot(now.head)
        for number in range(1000):
            words = words_of([{"role": "user", "content": f"Message {number}"}])
            draft = SnapshotDraft(
                session_id=session.id, parent=head.id, new_tokens=words,
                total_tokens=head.total_tokens + len(words), boundary=0, boundary_hash=None,
                page_hashes=(), fingerprint_id=now.body.fingerprint_id, ranks=1,
                meta={"tokens": 11 + number},
            )  # fmt: skip
            head = (await store.commit(draft, lease=lease, durability="memory")).snapshot
        await store.release(lease)
    page = await show(session.id)
    await expect(rows.first).to_contain_text(short(head.id))
    assert await rows.first.get_attribute("aria-setsize") == "500"
    more = page.get_by_role("button", name="Show earlier snapshots")
    await more.click()
    await expect(rows.first).to_have_attribute("aria-setsize", "1000")
    await more.click()
    await expect(rows.first).to_have_attribute("aria-setsize", "1002")
    await expect(more).to_have_count(0)
    graph = page.get_by_role("listbox", name="Snapshots, newest first")
    await graph.press("End")
    await expect(page.locator(".commit[aria-selected='true']")).to_contain_text(
        "before the first turn"
    )
    assert await rows.count() < 80
    await graph.press("Home")
    await expect(page.locator(".commit[aria-selected='true']")).to_contain_text(short(head.id))
    # A turn adds its snapshot; the tree and the messages are not read anew.
    asked = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    said.scripted.append(says({"content": "One more."}))
    await page.get_by_label("Message", exact=True).fill("More")
    await page.keyboard.press("Enter")
    await expect(page.locator(".usage")).to_be_visible()
    await expect(rows.first).to_have_attribute("aria-setsize", "1003")
    assert not {"tree", "messages"} & set(asked)
    await torpor.delete(session.id)
