"""Who may look, and on what: keys, narrow screens, light and dark."""

import pytest
import pytest_asyncio
from playwright.async_api import expect

from state_store.store import StateStore
from tests.backends.scripted import says

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def guarded(make_runtime):
    with make_runtime("--require-keys") as process:
        yield process


@pytest_asyncio.fixture(loop_scope="session")
async def make_key(console_store):
    async with await StateStore.connect(console_store.url) as store:

        async def made(tenant, role="use"):
            await store.tenant(tenant)
            _, text = await store.keys.create(tenant, role=role)
            return text

        yield made


async def test_a_key_is_asked_for_and_kept_in_the_tab_only(guarded, open_page, make_key):
    key = await make_key("acme")
    page = await open_page(guarded.url)
    urls = []
    page.on("request", lambda request: urls.append(request.url))
    dialog = page.get_by_role("dialog", name="API key")
    await expect(dialog).to_contain_text("needs an API key")
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_visible()
    await dialog.get_by_label("API key").fill("torpor-wrong")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert")).to_contain_text("mistyped, revoked or expired")
    await dialog.get_by_label("API key").fill(key)
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("There are no sessions yet.")).to_be_visible()
    await page.get_by_role("button", name="New session").click()
    await page.get_by_label("Name (its label").fill("of acme")
    await page.get_by_role("button", name="Create").click()
    await page.locator(".live.on").wait_for()  # followed with the key too
    await page.reload()
    await expect(page.get_by_role("heading", name="of acme")).to_be_visible()
    assert not any(key in url for url in urls)
    assert await page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
    assert await page.evaluate("Object.values(sessionStorage)") == [key]
    await page.get_by_role("link", name="Fleet").click()
    await expect(page.get_by_role("alert")).to_contain_text("forbidden")
    await page.get_by_role("button", name="Forget the key").click()
    await expect(dialog).to_contain_text("needs an API key")
    assert await page.evaluate("sessionStorage.length") == 0


async def test_another_tenants_session_is_not_there_and_a_reader_is_told_so(
    guarded, open_page, make_key, torpor
):
    session = await torpor.create()  # of the tenant `default`
    page = await open_page(guarded.url)
    await page.get_by_role("textbox", name="API key").fill(await make_key("other", "read"))
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("There are no sessions yet.")).to_be_visible()
    await page.goto(f"/console#/sessions/{session.id}")
    await expect(page.get_by_role("alert")).to_contain_text("not_found")
    await page.goto("/console#/")
    await page.get_by_role("button", name="New session").click()
    await page.get_by_role("button", name="Create").click()
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("may only read")


async def test_nothing_is_cut_off_on_a_narrow_screen(open_page, runtime, torpor, said):
    session = await torpor.create(labels={"name": "a name that is rather long " * 4})
    said.scripted.append(says({"content": "word" * 200}))
    await torpor.turn(session.id, "x" * 500)
    page = await open_page(runtime.url, viewport={"width": 360, "height": 700})
    await expect(page.locator("tbody tr").first).to_be_visible()
    for path in ("", f"#/sessions/{session.id}", "#/fleet"):
        await page.goto(f"/console{path}")
        await expect(page.locator("h1")).to_be_visible()
        await page.locator("tbody a.name, .live.on, .state").first.wait_for()
        wide, seen = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen, path
    await page.goto(f"/console#/sessions/{session.id}")
    await page.get_by_label("Message", exact=True).scroll_into_view_if_needed()
    box = await page.get_by_role("button", name="Send", exact=True).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_in_light_and_dark(open_page, runtime, torpor, said, scheme):
    session = await torpor.create(labels={"name": "read me"})
    said.scripted.append(says({"content": "Answer."}))
    await torpor.turn(session.id, "Question")
    page = await open_page(runtime.url, color_scheme=scheme)
    await page.goto(f"/console#/sessions/{session.id}")
    await page.locator(".live.on").wait_for()
    ratios = await page.evaluate(CONTRASTS)
    assert len(ratios) > 20
    assert {text: ratio for text, ratio in ratios if ratio < 4.5} == {}


# WCAG's contrast of every text that is shown against what is behind it.
CONTRASTS = """() => {
    const read = (color) => {
        const canvas = new OffscreenCanvas(1, 1).getContext("2d");
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (color) => color.slice(0, 3).map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
    const behind = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const color = read(getComputedStyle(at).backgroundColor);
            if (color[3] === 255) return color;
        }
        return [255, 255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        const text = walker.currentNode.textContent.trim();
        if (!text || !node.checkVisibility() || node.closest("option, .skip")) continue;
        const [a, b] = [light(read(getComputedStyle(node).color)), light(behind(node))];
        found.push([text, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
    }
    return found;
}"""
