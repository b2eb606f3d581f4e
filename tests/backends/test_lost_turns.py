"""Turns that were answered and could not be committed, or whose answer got lost on its way."""

import httpx
import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from agent_runtime.errors import TurnLost
from agent_runtime.graph import ask, build_agent
from agent_runtime.langchain import ChatTorpor
from agent_runtime.langchain import model as langchain_model
from agent_runtime.sdk import ApiError, ApiUnreachable, Torpor
from agent_runtime.wire.problems import Problem
from state_store.errors import StoreUnavailable
from tests.backends.scripted import says, sent
from tools.registry import Registry

THREAD = {"configurable": {"thread_id": "a"}}


class CutBehindTheTurn(httpx.AsyncBaseTransport):
    """Loses as many answers to turns as it is told to, once they are made."""

    def __init__(self, app):
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.cuts = 0

    async def handle_async_request(self, request):
        answer = await self._inner.handle_async_request(request)
        if request.url.path.endswith("/turns") and self.cuts:
            self.cuts -= 1
            await answer.aread()
            raise httpx.ReadError("connection reset")
        return answer


@pytest.fixture
def carrier(scripted_app):
    return CutBehindTheTurn(scripted_app)


@pytest.fixture
async def torpor(carrier):
    async with Torpor("http://scripted", transport=carrier) as client:
        yield client


@pytest.fixture
def store_is_away(scripted_app, monkeypatch):
    """Until it is called, no turn can be committed."""

    async def gone(*_, **__):
        raise StoreUnavailable("away for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(scripted_app.state.store, "commit", gone)
        yield patch.undo


async def test_the_agent_loop_keeps_what_could_not_be_committed_and_says_it_again(
    torpor, said, store_is_away
):
    agent = build_agent(torpor, Registry([]), checkpointer=InMemorySaver())
    session = await torpor.create()
    said.scripted.append(says({"content": "Hello Ada."}))
    with pytest.raises(TurnLost, match="away for a moment") as lost:
        await ask(agent, session, "My name is Ada.", thread="a")
    assert lost.value.result.text == "Hello Ada."
    store_is_away()
    said.scripted += [says({"content": "Hello again."}), says({"content": "Ada."})]
    await agent.ainvoke(None, THREAD)
    await ask(agent, None, "What is my name?", thread="a")
    assert ("user", "My name is Ada.") in sent(said)


async def test_an_answer_that_could_not_be_committed_is_no_part_of_a_langchain_session(
    torpor, carrier, said, store_is_away, monkeypatch
):
    monkeypatch.setattr(langchain_model, "Torpor", lambda url, **_: Torpor(url, transport=carrier))
    chat = ChatTorpor(session=(await torpor.create()).id)
    said.scripted.append(says({"content": "Hello Ada."}))
    with pytest.raises(TurnLost):
        await chat.ainvoke([HumanMessage("My name is Ada.")])


async def test_a_turn_whose_answer_got_lost_is_generated_once_by_the_agent_loop(
    torpor, carrier, said
):
    agent = build_agent(torpor, Registry([]), checkpointer=InMemorySaver())
    session = await begun(torpor, said)
    said.scripted.append(says({"content": "Done."}))
    carrier.cuts = 1
    with pytest.raises(ApiUnreachable):
        await ask(agent, session, "Transfer the money.", thread="a")
    final = await agent.ainvoke(None, THREAD)
    assert [step.text for step in final["steps"]] == ["Done."]
    assert (final["session_id"], final["head"]) == (session.id, (await torpor.get(session.id)).head)

    said.scripted.append(says({"content": "Done once more."}))
    states = [one async for one in agent.aget_state_history(THREAD)]
    before = next(one for one in states if one.next == ("model",))
    final = await agent.ainvoke(None, before.config)  # gone back to: it is another turn
    assert final["steps"][-1].text == "Done once more."
    assert (await torpor.get(final["session_id"])).forked_from == session.id


async def test_a_fork_whose_answer_got_lost_is_gone_on_with(torpor, carrier, said):
    session = await begun(torpor, said)
    said.scripted += [says({"content": "Elsewhere."}), says({"content": "Done."})]
    await torpor.turn(session.id, "Moved.")
    known = {one.id async for one in torpor.sessions()}
    agent = build_agent(CutInForks(torpor, carrier), Registry([]), checkpointer=InMemorySaver())
    with pytest.raises(ApiUnreachable):
        await ask(agent, session, "Transfer the money.", thread="a")
    final = await agent.ainvoke(None, THREAD)
    made = {one.id async for one in torpor.sessions()} - known
    assert made == {final["session_id"]}
    assert final["steps"][-1].text == "Done."


async def test_a_fork_in_which_an_earlier_attempt_is_still_at_work_is_left_to_it(
    torpor, said, monkeypatch
):
    session = await begun(torpor, said)
    said.scripted += [says({"content": "Elsewhere."}), says({"content": "Done."})]
    await torpor.turn(session.id, "Moved.")
    known = {one.id async for one in torpor.sessions()}
    agent = build_agent(torpor, Registry([]), checkpointer=InMemorySaver())
    take = torpor.turn

    async def busy(session_id, *arguments, **options):
        if session_id in known:
            return await take(session_id, *arguments, **options)
        detail = "is being written by the first request with this key. Ask again in a moment."
        raise ApiError(
            Problem(title="StillRunning", status=409, code="still_running", detail=detail)
        )

    with monkeypatch.context() as patch:
        patch.setattr(torpor, "turn", busy)
        with pytest.raises(ApiError, match="Ask again in a moment"):
            await ask(agent, session, "Transfer the money.", thread="a")
    made = {one.id async for one in torpor.sessions()} - known
    assert len(made) == 1
    final = await agent.ainvoke(None, THREAD)
    assert made == {final["session_id"]}
    assert final["steps"][-1].text == "Done."


class CutInForks:
    """Loses the answer of the first turn in a fork."""

    def __init__(self, torpor, carrier):
        self._torpor, self._carrier = torpor, carrier
        self.turn, self.delete = torpor.turn, torpor.delete
        self._cuts = 1

    async def fork(self, session_id, **place):
        fork = await self._torpor.fork(session_id, **place)
        self._carrier.cuts, self._cuts = self._cuts, 0
        return fork


async def begun(torpor, said):
    """A session after one turn."""
    session = await torpor.create()
    said.scripted.append(says({"content": "Hello."}))
    await torpor.turn(session.id, "Hi")
    return await torpor.get(session.id)
