"""A tool that searches what was said in a session, on a runtime: after forks and rewinding, too."""

import httpx
import pytest

from agent_runtime.graph import ask, build_agent
from agent_runtime.sdk import Torpor
from agent_runtime.sdk.memories import SessionMemories
from agent_runtime.sdk.sync import TorporSync
from agent_runtime.wire.messages import Message
from tests.backends.scripted import call, says
from tools.calls import ToolCall
from tools.define import ToolSpec
from tools.memory_search import memory_search
from tools.registry import Registry

WEATHER = ToolSpec(
    name="weather",
    description="Tells the weather.",
    parameters={"type": "object", "properties": {"place": {"type": "string"}}},
)


@pytest.fixture
async def torpor(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with Torpor("http://scripted", transport=transport) as client:
        yield client


async def search(torpor, session_id: str, words: str) -> list[str]:
    """The texts that are found, without who said them and when."""
    tool = memory_search(SessionMemories(torpor, session_id))
    found = await Registry([tool]).call("search_memory", {"words": words})
    return [line.partition("] ")[2] for line in found.text.splitlines() if line.startswith("[")]


async def say(torpor, said, session_id: str, text: str, answer: str) -> None:
    said.scripted.append(says({"content": answer}))
    await torpor.turn(session_id, text)


async def test_a_branch_remembers_what_its_history_leads_to(torpor, said):
    session = await torpor.create(system="You are kind.")
    await say(torpor, said, session.id, "The harbour's code is 4712.", "I keep it.")
    fork = await torpor.fork(session.id)
    await say(torpor, said, session.id, "The garden's code is 9034.", "That too.")
    await say(torpor, said, fork.id, "The cellar's code is 1111.", "Noted.")
    assert await search(torpor, session.id, "garden") == ["The garden's code is 9034."]
    assert await search(torpor, fork.id, "garden cellar") == ["The cellar's code is 1111."]
    assert len(await search(torpor, fork.id, "code")) == 2
    assert await search(torpor, session.id, "kind") == []

    await torpor.rewind(session.id, turns=1)
    assert await search(torpor, session.id, "garden") == []
    assert await search(torpor, session.id, "harbour") == ["The harbour's code is 4712."]
    rows = [row async for row in torpor.messages(session.id)][::-1]
    assert [(row.role, row.text) for row in rows] == [
        ("system", "You are kind."),
        ("user", "The harbour's code is 4712."),
        ("assistant", "I keep it."),
    ]
    await torpor.rewind(session.id, snapshot="")
    assert [row async for row in torpor.messages(session.id)] == []


async def test_what_was_said_has_calls_and_results_apart(torpor, said):
    session = await torpor.create(tools=[WEATHER])
    said.scripted.append(says({"content": "I look."}, call("weather", "c1", place="Brest")))
    await torpor.turn(session.id, "The weather in Brest?")
    said.scripted.append(says({"content": "Calm."}))
    await torpor.turn(session.id, [Message(role="tool", content="calm")])
    rows = [row async for row in torpor.messages(session.id)][::-1]
    assert [(row.role, row.text) for row in rows] == [
        ("user", "The weather in Brest?"),
        ("assistant", "I look."),
        ("tool", "calm"),
        ("assistant", "Calm."),
    ]
    assert rows[1].tool_calls == [ToolCall(name="weather", arguments={"place": "Brest"})]


async def test_the_agent_loop_gives_each_branch_its_own_memory(torpor, said):
    def tools(session_id: str):
        return [memory_search(SessionMemories(torpor, session_id))]

    session = await torpor.create(tools=[tools("")[0].spec])
    await say(torpor, said, session.id, "The harbour's code is 4712.", "I keep it.")
    agent = build_agent(torpor, Registry(), session_tools=tools)
    for branch in (session.id, (await torpor.fork(session.id)).id):
        piece = call("search_memory", "call_a", words="harbour")
        said.scripted += [says(piece, finish="tool_calls"), says({"content": "4712"})]
        steps = await ask(agent, branch, "Which code?")
        assert "The harbour's code is 4712." in steps[1].text


async def test_what_was_said_is_read_in_pages(torpor, said, chat_service):
    session = await torpor.create(system="You are kind.")
    for number in range(20):
        await say(torpor, said, session.id, f"Question {number}.", f"Answer {number}.")
    pages = [
        [row async for row in torpor.messages(session.id, limit=limit)]
        for limit in (1, 7, 41, 1000)
    ]
    assert pages[1:] == pages[:1] * 3
    assert [row.text for row in pages[0][::-1]] == [
        "You are kind.",
        *(text for n in range(20) for text in (f"Question {n}.", f"Answer {n}.")),
    ]
    with TorporSync(chat_service.url) as sync:
        assert list(sync.messages(session.id, limit=9)) == pages[0]
    async with httpx.AsyncClient(base_url=chat_service.url, trust_env=False) as http:
        path = f"/v1/sessions/{session.id}/messages"
        page = await http.get(f"{path}?limit=3")
        assert [row["text"] for row in page.json()] == ["Answer 19.", "Question 19.", "Answer 18."]
        page = await http.get(page.links["next"]["url"])
        assert next(row["text"] for row in page.json()) == "Question 18."
        assert "next" not in (await http.get(f"{path}?limit=41")).links
        for query, status in (("limit=0", 422), ("limit=1001", 422), ("after=x", 400)):
            assert (await http.get(f"{path}?{query}")).status_code == status
