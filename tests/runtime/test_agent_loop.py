"""The agent loop as a LangGraph graph: the trained model really calls real tools."""

from types import SimpleNamespace

import pytest
from langgraph.errors import GraphRecursionError

from agent_runtime.graph import ask, build_agent
from agent_runtime.sdk import ApiError
from agent_runtime.wire.messages import Message
from agent_runtime.wire.problems import Problem
from tests.results import turn_result
from tools.calls import ToolCall
from tools.context import Context, Progress
from tools.define import define
from tools.registry import Registry


@pytest.fixture
def agent(torpor, registry):
    return build_agent(torpor, registry, max_tokens=96)


async def test_it_calculates_with_the_calculator(agent, session):
    steps = await ask(agent, session.id, "What is 318 + 264?")
    assert [step.kind for step in steps] == ["model", "tool", "model"]
    (call,) = steps[0].turn.tool_calls
    assert (call.name, call.arguments) == ("calculator", {"expression": "318 + 264"})
    assert steps[1].text == "582"
    assert steps[2].text == "318 + 264 = 582."


async def test_it_searches_the_files_of_the_folder(agent, session):
    steps = await ask(agent, session.id, 'Search the files for "warranty".')
    assert steps[0].turn.tool_calls[0].arguments == {"pattern": "warranty"}
    assert steps[1].text.splitlines()[0] == "1 matches"
    assert "notes.txt:2" in steps[2].text


async def test_every_model_turn_is_a_snapshot_of_one_session(torpor, agent, session):
    steps = await ask(agent, session.id, "What is 12 + 30?")
    turns = [step.turn for step in steps if step.turn is not None]
    assert [s.id for s in await torpor.snapshots(session.id)] == [t.snapshot for t in turns]
    assert [s.id for s in await torpor.snapshots(session.id, last=1)] == [turns[-1].snapshot]
    with pytest.raises(ValueError, match="last=0"):
        await torpor.snapshots(session.id, last=0)


async def test_an_observer_sees_every_step_as_it_happens(torpor, registry, session):
    seen = []

    async def observe(step):
        seen.append(step)

    steps = await ask(
        build_agent(torpor, registry, observer=observe, max_tokens=96), session.id, "What is 5 + 6?"
    )
    assert seen == steps


async def test_a_tool_that_fails_tells_the_model(registry):
    """The model's own part is played here, so that it asks for what no tool can do."""
    client = Scripted([ToolCall(name="calculator", arguments={"expression": "1 / 0"})], [])
    steps = await ask(build_agent(client, registry), "any", "Go.")
    assert steps[1].kind == "tool"
    assert "zero" in steps[1].text
    assert client.said[-1] == [Message(role="tool", content=steps[1].text)]


async def test_a_model_that_never_stops_calling_is_stopped(registry):
    client = Scripted(*[[ToolCall(name="calculator", arguments={"expression": "1"})]] * 50)
    with pytest.raises(GraphRecursionError):
        await ask(build_agent(client, registry), "any", "Go.")


async def test_who_listens_hears_how_far_a_tool_has_come():
    def work(context: Context) -> str:
        """Works."""
        context.report("half", done=1, total=2)
        return "done"

    call = ToolCall(name="work")
    heard = []
    agent = build_agent(
        Scripted([call], []),
        Registry([define(work)]),
        listen=lambda call, progress: heard.append((call, progress)),
    )
    await ask(agent, "any", "Go.")
    assert heard == [(call, Progress("half", 1, 2))]


async def test_a_branch_whose_turn_fails_is_not_left_behind():
    client = Moved()
    with pytest.raises(ApiError, match="context full"):
        await ask(build_agent(client, Registry([])), "any", "Go.")
    assert (client.forks, client.deleted) == (["branch"], ["branch"])


class Moved:
    """Has no session any more where the loop believes it, and no room for a branch."""

    def __init__(self):
        self.forks, self.deleted = [], []

    async def turn(self, session_id, messages, **options):
        code, status = ("context_full", 413) if session_id in self.forks else ("head_moved", 409)
        raise ApiError(Problem(title="", status=status, detail=code.replace("_", " "), code=code))

    async def fork(self, session_id, **place):
        self.forks.append("branch")
        return SimpleNamespace(id="branch")

    async def delete(self, session_id):
        self.deleted.append(session_id)


class Scripted:
    """Takes turns with calls that are given: for what a well-trained model does not do."""

    def __init__(self, *calls):
        self.calls = list(calls)
        self.said = []

    async def turn(self, session_id, messages, **options):
        self.said.append(messages)
        return turn_result(
            session_id=session_id,
            tool_calls=self.calls.pop(0),
            snapshot=f"snp-{len(self.said)}",
        )
