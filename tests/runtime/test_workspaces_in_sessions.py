"""Files, and what was said, go with model state, on a real engine."""

from agent_runtime.sdk.memories import SessionMemories
from agent_runtime.workspaces import SessionWorkspaces
from tools.files import file_tools
from tools.memory_search import memory_search
from tools.registry import Registry
from tools.workspaces import Workspaces


async def test_a_fork_inside_a_turn_has_the_files_of_where_it_is(torpor, tmp_path):
    here = SessionWorkspaces(torpor, Workspaces(tmp_path), file_tools)
    session = await torpor.create(system="You are Torpor.")
    await torpor.turn(session.id, "Hello.", max_tokens=8)
    (await here.open(session.id)).path.joinpath("plan").write_text("one")
    version = await here.keep(session.id)
    await torpor.turn(session.id, "Look at the plan.", max_tokens=8, workspace=version)
    first, second = await torpor.snapshots(session.id)
    assert (first.workspace, second.workspace) == (None, version)
    forks = [
        await torpor.fork(session.id, tokens=tokens)
        for tokens in (second.prompt_tokens - 2, second.prompt_tokens + 2)
    ]
    versions = [(await torpor.files.get(fork.id)).version for fork in forks]
    assert versions == [None, version]
    await torpor.suspend(session.id)
    await torpor.turn(session.id, "Thanks.", max_tokens=8)
    assert (await torpor.files.get(session.id)).version == version
    for one in (session, *forks):
        await torpor.delete(one.id)


async def test_what_was_said_in_a_session_with_state_can_be_read_and_searched(torpor):
    session = await torpor.create(system="You are Torpor.")
    first = await torpor.turn(session.id, "The harbour's code is 4712.", max_tokens=24)
    await torpor.turn(session.id, "The garden's code is 9034.", max_tokens=4)
    rows = [row async for row in torpor.messages(session.id)][::-1]
    assert [row.role for row in rows] == ["system", "user", "assistant", "user", "assistant"]
    assert [row.text for row in rows[1::2]] == [
        "The harbour's code is 4712.",
        "The garden's code is 9034.",
    ]
    assert rows[2].text == first.text
    assert rows[2].snapshot == first.snapshot
    assert (rows[2].reasoning, rows[2].tool_calls) == (first.reasoning, first.tool_calls)
    tool = memory_search(SessionMemories(torpor, session.id))
    found = await Registry([tool]).call("search_memory", {"words": "garden"})
    assert "9034" in found.text.splitlines()[0]
    await torpor.rewind(session.id, turns=1)
    found = await Registry([tool]).call("search_memory", {"words": "garden"})
    assert "9034" not in found.text
    await torpor.delete(session.id)
