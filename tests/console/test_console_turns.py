"""Turns in the console: streamed, with tools by hand, cut short, and with hostile text."""

import asyncio
import threading

import pytest
from playwright.async_api import expect

from engine.launch import free_port
from tests.backends.endpoint import Scripted, event
from tests.backends.scripted import call, says, sent
from tools.define import ToolSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")

WEATHER = ToolSpec(
    name="weather",
    description="Tells the weather.",
    parameters={"type": "object", "properties": {"place": {"type": "string"}}},
)
HOSTILE = (
    "<img src=x onerror='window.taken=1'><script>window.taken=1</script>"
    "<style>body{display:none}</style></div><a href=javascript:alert(1)>x</a>{{7*7}}"
)


def waiting(text):
    """An answer that begins so, and how it ends once the event is set."""
    rest = says({"content": " And so on."}).body
    release = threading.Event()
    return Scripted(rest, begins=event({"content": text}), after=release), release


async def say(page, text):
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send", exact=True).click()


async def test_an_answer_is_shown_as_it_comes_and_then_what_it_cost(show, torpor, said):
    session = await torpor.create(system="You are brief.")
    page = await show(session.id)
    answer, release = waiting("The first half.")
    answer.begins = event({"reasoning_content": "They greet."}) + answer.begins
    said.scripted.append(answer)
    await say(page, "Hello")
    log = page.get_by_role("log")
    await expect(log).to_contain_text("The first half.")
    await expect(page.get_by_role("button", name="Cancel the turn")).to_be_visible()
    assert "And so on." not in await log.inner_text()
    release.set()
    await expect(log).to_contain_text("The first half. And so on.")
    await expect(log.get_by_text("Hello")).to_have_count(1)
    usage = page.locator(".usage")
    await expect(usage).to_contain_text("9 prompt tokens, 0 reused")
    await expect(usage).to_contain_text("2 generated")
    await expect(usage).to_contain_text("durable: memory")
    await expect(page.get_by_label("Message", exact=True)).to_have_value("")
    session = await torpor.get(session.id)
    await expect(page.locator(".commit[aria-selected='true']")).to_contain_text(
        session.head.rpartition("-")[2][:8]
    )
    await expect(page.get_by_label("The snapshot that is chosen")).to_contain_text("memory")

    said.scripted.append(says({"reasoning_content": "Again."}, {"content": "Second."}, cached=4))
    await page.get_by_text("Options of the turn").click()
    await page.get_by_label("Durability").select_option("fsync")
    await page.get_by_label("Most tokens").fill("77")
    await say(page, "Again")
    await expect(page.locator(".usage").last).to_contain_text("4 reused")
    await expect(page.locator(".usage").last).to_contain_text("durable: fsync")
    await expect(page.locator(".usage").last).to_contain_text("computed again: the backend keeps")
    assert said.seen[-1][1]["max_tokens"] == 77
    thought = page.locator("details.reasoning").last
    await expect(thought).not_to_have_attribute("open", "")
    await thought.locator("summary").click()
    await expect(thought.get_by_text("Again.")).to_be_visible()


async def test_results_of_tools_are_given_by_hand(show, torpor, said):
    session = await torpor.create(tools=[WEATHER])
    page = await show(session.id)
    said.scripted.append(
        says({"content": "I look."}, call("weather", "c1", place="Brest"), finish="tool_calls")
    )
    await say(page, "The weather in Brest?")
    await expect(page.get_by_text("The model waits for the result of a tool.")).to_be_visible()
    await expect(page.get_by_role("log")).to_contain_text('"place": "Brest"')
    await page.get_by_label("Result of weather").fill("calm")
    await page.reload()  # whoever opens the session later may answer as well
    await page.get_by_label("Result of weather").fill("calm, 12 degrees")
    said.scripted.append(says({"content": "It is calm."}))
    await page.get_by_role("button", name="Send the results").click()
    await expect(page.get_by_role("log")).to_contain_text("It is calm.")
    assert sent(said)[-1] == ("tool", "calm, 12 degrees")
    await expect(page.get_by_label("Tool result")).to_contain_text("calm, 12 degrees")
    await expect(page.get_by_label("Message", exact=True)).to_be_visible()


async def test_a_turn_is_cancelled_and_its_message_comes_back(show, torpor, said):
    session = await torpor.create()
    page = await show(session.id)
    answer, release = waiting("Too long.")
    said.scripted.append(answer)
    await say(page, "Tell me all")
    await expect(page.get_by_role("log")).to_contain_text("Too long.")
    await page.get_by_role("button", name="Cancel the turn").click()
    await expect(page.get_by_role("alert")).to_contain_text("cancelled")
    await expect(page.get_by_label("Message", exact=True)).to_have_value("Tell me all")
    await expect(page.get_by_role("log")).to_contain_text("Nothing was said yet.")
    release.set()
    assert (await torpor.get(session.id)).head is None


async def test_a_runtime_that_dies_in_an_answer_loses_nothing(
    make_runtime, open_page, torpor, said
):
    session = await torpor.create(labels={"name": "survivor"})
    port = free_port()
    with make_runtime(port=port) as dying:
        page = await open_page(dying.url)
        await page.goto(f"/console#/sessions/{session.id}")
        await page.locator(".live.on").wait_for()
        answer, release = waiting("Half of it.")
        said.scripted.append(answer)
        await say(page, "Will you live?")
        await expect(page.get_by_role("log")).to_contain_text("Half of it.")
        dying.kill()
        release.set()
    problem = page.get_by_role("alert")
    await expect(problem).to_contain_text("broken_off")
    await expect(problem).to_contain_text("Your message is kept here")
    await expect(page.get_by_role("log")).to_contain_text("Half of it.")
    await expect(page.get_by_text("reconnecting…")).to_be_visible()
    await page.get_by_role("button", name="Ask again").click()
    await expect(problem).to_contain_text("unreachable")
    with make_runtime(port=port):
        await page.locator(".live.on").wait_for()
        await page.reload()  # also a page that is opened anew knows what was not answered
        await expect(page.get_by_role("log")).to_contain_text("Will you live?")
        said.scripted.append(says({"content": "All of it."}))
        again = page.get_by_role("button", name="Ask again")
        run = page.get_by_role("button", name="Run it again")
        await (again.or_(run)).click()
        for _ in range(20):  # the lease of the dead one runs out
            await expect(again.or_(page.locator(".usage"))).to_be_visible()
            if await page.locator(".usage").is_visible():
                break
            await again.click()
        await expect(page.get_by_role("log")).to_contain_text("All of it.")
        rows = [row async for row in torpor.messages(session.id)][::-1]
        assert [row.text for row in rows] == ["Will you live?", "All of it."]
        await expect(page.get_by_role("log").get_by_text("Will you live?")).to_have_count(1)


async def test_a_turn_that_was_committed_unseen_is_told_and_not_run_twice(show, torpor, said):
    session = await torpor.create()
    page = await show(session.id)
    said.scripted.append(says({"content": "Only once."}))

    async def break_off(route):
        await route.fetch()  # it arrives, and its answer does not
        await route.abort()

    await page.route("**/turns", break_off)
    await say(page, "How often?")
    await expect(page.get_by_role("alert")).to_contain_text("unreachable")
    await page.unroute("**/turns")
    await page.get_by_role("button", name="Ask again").click()
    await expect(page.locator(".usage")).to_contain_text("answered before, told again")
    rows = [row async for row in torpor.messages(session.id)][::-1]
    assert [row.text for row in rows] == ["How often?", "Only once."]
    await expect(page.get_by_role("log").get_by_text("Only once.")).to_have_count(1)


async def test_hostile_text_is_text_everywhere(show, torpor, said, page):
    text = HOSTILE
    label = "<img src=x onerror='window.taken=1'>"
    labels = {"name": label, "team": label}
    session = await torpor.create(system=text, tools=[WEATHER], labels=labels)
    hostile_call = call("weather", "c1", place=text, **{text: text})
    said.scripted.append(says({"content": text}, hostile_call))
    await torpor.turn(session.id, text)
    head = (await torpor.get(session.id)).head
    await torpor.label_snapshot(head, {"point": label})
    await page.reload()
    await expect(page.get_by_role("link", name=label, exact=True)).to_have_text(label)
    await show(session.id)
    for role in ("System", "User", "Model"):
        await expect(page.get_by_label(role, exact=True).first).to_contain_text("onerror=")
    await page.get_by_label("Result of weather").fill(text)
    said.scripted.append(says({"content": text}))
    await page.get_by_role("button", name="Send the results").click()
    await expect(page.locator(".usage")).to_be_visible()
    await page.locator("summary", has_text="More").click()
    await page.get_by_role("button", name="Label the session").click()
    await expect(page.get_by_label("Value").first).to_have_value(label)
    await page.keyboard.press("Escape")
    markup = "main :is(img, script, style, iframe, a[href^=javascript])"
    assert await page.locator(markup).count() == 0
    assert await page.evaluate("window.taken") is None


async def test_the_policy_blocks_scripts_and_styles_that_get_in(open_page, runtime):
    page = await open_page(runtime.url)
    seen = await page.evaluate("""async () => {
        const blocked = [];
        document.addEventListener("securitypolicyviolation", (event) =>
            blocked.push(event.effectiveDirective));
        const tried = [];
        const attempt = (does) => { try { does(); } catch (error) { tried.push(error.name); } };
        attempt(() => { document.body.innerHTML = "<b>x</b>"; });
        const script = document.createElement("script");
        attempt(() => { script.text = "window.taken = 1"; });
        const button = document.createElement("button");
        attempt(() => button.setAttribute("onclick", "window.taken = 1"));
        document.body.append(button);
        button.click();
        const style = document.createElement("style");
        style.textContent = "body { display: none }";
        document.head.append(style);
        await fetch("https://elsewhere.example/").catch(() => tried.push("fetch"));
        await new Promise((resolve) => setTimeout(resolve, 50));
        return { blocked, tried, taken: window.taken === 1,
                 shown: getComputedStyle(document.body).display };
    }""")
    assert seen["taken"] is False
    assert seen["shown"] != "none"
    assert "fetch" in seen["tried"]
    assert {"require-trusted-types-for", "style-src-elem", "connect-src"} <= set(seen["blocked"])
    assert any("Content Security Policy" in error for error in open_page.errors)
    open_page.errors.clear()  # which is what they are for


async def test_long_texts_and_histories_are_shown_in_parts(show, torpor, said):
    session = await torpor.create()
    for number in range(35):
        said.scripted.append(says({"content": f"Answer {number}." if number else "x" * 20_000}))
        await torpor.turn(session.id, f"Question {number}.")
    page = await show(session.id)
    log = page.get_by_role("log")
    await expect(log).to_contain_text("Answer 34.")
    await expect(log.get_by_text("Question 0.")).to_have_count(0)
    await log.get_by_role("button", name="Show earlier messages").click()
    await expect(log.get_by_text("Question 0.")).to_have_count(1)
    await expect(log.get_by_role("button", name="Show earlier messages")).to_have_count(0)
    await log.get_by_role("button", name="Show all 20,000 characters").click()
    assert "x" * 20_000 in await log.inner_text()


async def test_what_others_say_is_shown_though_earlier_messages_are_asked_for(show, torpor, said):
    session = await torpor.create()
    for number in range(35):
        said.scripted.append(says({"content": f"Answer {number}."}))
        await torpor.turn(session.id, f"Question {number}.")
    page = await show(session.id)
    log = page.get_by_role("log")
    await expect(log).to_contain_text("Answer 34.")
    may_answer = asyncio.Event()

    async def late(route):
        await may_answer.wait()
        await route.continue_()

    await page.route("**/tree?*", late)
    async with page.expect_request("**/tree?*"):
        said.scripted.append(says({"content": "News."}))
        await torpor.turn(session.id, "What is new?")
    await log.get_by_role("button", name="Show earlier messages").click()
    await expect(log.get_by_text("Question 0.")).to_have_count(1)
    may_answer.set()
    await expect(log).to_contain_text("News.")
    await expect(log.get_by_text("Question 0.")).to_have_count(1)
