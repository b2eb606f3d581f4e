"""A tool that searches what was said in a session, on a runtime: after forks and rewinding, too."""

import httpx
import pytest

from agent_runtime.graph import ask, build_agent
from agent_runtime.sdk import Torpor
from agent_runtime.sdk.memories import SessionMemories
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
    rows = await torpor.messages(session.id)
    assert [(row.role, row.text) for row in rows] == [
        ("system", "You are kind."),
        ("user", "The harbour's code is 4712."),
        ("assistant", "I keep it."),
    ]
    await torpor.rewind(session.id, snapshot="")
    assert await torpor.messages(session.id) == []


async def test_what_was_said_has_calls_and_results_apart(torpor, said):
    session = await torpor.create(tools=[WEATHER])
    said.scripted.append(says({"content": "I look."}, call("weather", "c1", place="Brest")))
    await torpor.turn(session.id, "The weather in Brest?")
    said.scripted.append(says({"content": "Calm."}))
    await torpor.turn(session.id, [Message(role="tool", content="calm")])
    rows = await torpor.messages(session.id)
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
