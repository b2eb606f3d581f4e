"""ChatTorpor: LangChain sends whole conversations, and lands on the state that they led to."""

import operator
import secrets
from typing import Annotated, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel, ValidationError

from agent_runtime.demo.script import SYSTEM
from agent_runtime.errors import BadRequest, InvalidRequest, TextOnly, ToolsDiffer, WrongMessage
from agent_runtime.langchain import ChatTorpor
from agent_runtime.langchain.messages import said
from agent_runtime.saver import TorporSaver
from agent_runtime.sdk import ApiError

from .talk import PAGE

pytestmark = pytest.mark.usefixtures("nothing_left")


class Point(BaseModel):
    """A point."""

    x: int
    bright: bool


@tool
async def calculator(expression: str) -> str:
    """Computes a sum, a difference or a product."""
    one, sign, other = expression.split()
    return str(
        {"+": operator.add, "-": operator.sub, "*": operator.mul}[sign](int(one), int(other))
    )


@tool
def shift(by: int, names: list[int]) -> str:
    """Shift."""
    return f"{by} {names}"


@pytest.fixture
def model(stage):
    return ChatTorpor(url=stage.runtime.url, max_tokens=96)


@pytest.fixture
def in_session(stage, session):
    """The model, with everything said in one session."""
    return ChatTorpor(url=stage.runtime.url, max_tokens=96, session=session.id)


async def test_an_agent_of_langchain_calls_tools(model):
    agent = create_agent(model, [calculator], system_prompt=SYSTEM)
    asked = {"messages": [HumanMessage("What is 318 + 264?")]}
    messages = (await agent.ainvoke(asked))["messages"]
    assert [type(one) for one in messages] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert messages[1].tool_calls[0]["args"] == {"expression": "318 + 264"}
    assert messages[-1].text == "318 + 264 = 582."
    kept = [one.response_metadata for one in messages if isinstance(one, AIMessage)]
    assert len({one["session"] for one in kept}) == 1
    assert kept[1]["parent"] == kept[0]["snapshot"]
    assert kept[1]["recomputed_tokens"] <= PAGE


async def test_a_graph_written_by_hand_calls_tools(model):
    class State(TypedDict):
        messages: Annotated[list[AnyMessage], operator.add]

    async def ask(state: State):
        return {"messages": [await model.bind_tools([calculator]).ainvoke(state["messages"])]}

    graph = StateGraph(State)
    graph.add_node("model", ask)
    graph.add_node("tools", ToolNode([calculator]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "model")
    asked = {"messages": [HumanMessage("What is 12 + 30?")]}
    messages = (await graph.compile().ainvoke(asked))["messages"]
    assert messages[-1].text == "12 + 30 = 42."


async def test_time_travel_of_an_agent_goes_back_to_the_state_that_it_had(model, stage):
    async with await TorporSaver.connect(stage.store.url) as saver:
        agent = create_agent(model, [calculator], checkpointer=saver)
        thread = {"configurable": {"thread_id": secrets.token_hex(8)}}
        texts = ["Remember: the code of harbour is 4712.", "Tick.", "Mode: green."]
        for text in texts:
            await agent.ainvoke({"messages": [HumanMessage(text)]}, thread)
        history = [state async for state in agent.aget_state_history(thread)]
        earlier = next(
            state for state in history if len(state.values["messages"]) == 4 and not state.next
        )
        asked = {"messages": [HumanMessage("What is the code of harbour?")]}
        messages = (await agent.ainvoke(asked, earlier.config))["messages"]
    assert len(messages) == 6
    assert messages[-1].text == "The code of harbour is 4712."
    before, after = (messages[place].response_metadata for place in (3, 5))
    assert after["parent"] == before["snapshot"]
    assert after["session"] != before["session"]
    assert after["recomputed_tokens"] <= PAGE


async def test_pieces_come_as_they_are_generated_and_add_up(model):
    chunks = [chunk async for chunk in model.astream('Repeat "one two three four".')]
    whole = await model.ainvoke('Repeat "one two three four".')
    assert len([chunk for chunk in chunks if chunk.text]) > 2
    assert "".join(chunk.text for chunk in chunks) == whole.text == '"one two three four".'


async def test_the_text_of_a_call_is_never_shown(model):
    bound = model.bind_tools([calculator])
    chunks = [chunk async for chunk in bound.astream("What is 318 + 264?")]
    assert "".join(chunk.text for chunk in chunks) == ""
    (piece,) = [piece for chunk in chunks for piece in chunk.tool_call_chunks]
    assert (piece["name"], piece["args"]) == ("calculator", '{"expression": "318 + 264"}')


async def test_arguments_are_what_the_schema_says_and_are_known_again(model):
    forced = model.bind_tools([shift], tool_choice="shift", parallel_tool_calls=False)
    messages = [HumanMessage("Hello.")]
    first = await forced.bind(max_tokens=400).ainvoke(messages)
    (call,) = first.tool_calls
    assert isinstance(call["args"]["by"], int)
    assert isinstance(call["args"]["names"], list)
    messages += [first, ToolMessage("done", tool_call_id=call["id"]), HumanMessage("Thanks.")]
    second = await model.bind_tools([shift]).ainvoke(messages)
    assert second.response_metadata["session"] == first.response_metadata["session"]


async def test_an_answer_is_made_of_a_schema(model):
    for method in ("json_schema", "function_calling"):
        point = await model.with_structured_output(Point, method=method).ainvoke("Hello.")
        assert isinstance(point, Point)


async def test_an_agent_answers_by_a_schema(model):
    agent = create_agent(model, response_format=Point)
    answer = await agent.ainvoke({"messages": [HumanMessage("Hello.")]})
    assert isinstance(answer["structured_response"], Point)


async def test_an_answer_that_does_not_fit_is_given_with_why(model):
    asking = model.with_structured_output(Point, method="json_mode", include_raw=True)
    found = await asking.ainvoke("Hello.")
    assert found["parsed"] is None
    assert found["parsing_error"] is not None
    assert found["raw"].response_metadata["snapshot"]


async def test_usage_says_what_was_read_from_the_state(model):
    said = [SystemMessage(SYSTEM), HumanMessage("Thanks."), HumanMessage("Tick." * 30)]
    first = await model.ainvoke(said)
    second = await model.ainvoke([*said, first, HumanMessage("Thanks.")])
    read = second.usage_metadata["input_token_details"]["cache_read"]
    assert read == second.response_metadata["reused_tokens"] >= PAGE


async def test_a_conversation_in_a_session_is_its_turns(torpor, in_session, session):
    said = [HumanMessage("Remember: the code of harbour is 4712.")]
    said += [await in_session.ainvoke(said), HumanMessage("What is the code of harbour?")]
    answer = await in_session.ainvoke(said)
    assert answer.text == "The code of harbour is 4712."
    snapshots = [one.id for one in await torpor.snapshots(session.id)]
    kept = [one.response_metadata["snapshot"] for one in (said[1], answer)]
    assert snapshots == kept


async def test_an_edit_of_a_conversation_in_a_session_is_a_fork(torpor, in_session, session):
    said = [HumanMessage("Mode: green.")]
    said += [await in_session.ainvoke(said), HumanMessage("Which mode?")]
    await in_session.ainvoke(said)
    retried = await in_session.ainvoke(said)
    assert retried.text == "The mode is green."
    branch = retried.response_metadata["session"]
    assert branch != session.id
    assert (await torpor.get(branch)).forked_from == session.id
    await torpor.delete(branch)


async def test_a_session_has_its_own_tools_and_system_text(in_session):
    with pytest.raises(ToolsDiffer, match="created without shift"):
        await in_session.bind_tools([shift]).ainvoke("Hello.")
    with pytest.raises(WrongMessage, match="its own system text"):
        await in_session.ainvoke([SystemMessage("Be brief."), HumanMessage("Hello.")])
    called = await in_session.bind_tools([calculator]).ainvoke("What is 5 + 6?")
    assert called.tool_calls[0]["args"] == {"expression": "5 + 6"}


def test_code_that_does_not_await_streams_too(model):
    pieces = [chunk.text for chunk in model.stream("Thanks.", stop=["welcome"])]
    assert "".join(pieces).strip() == model.invoke("Thanks.", stop=["welcome"]).text == "You are"


async def test_what_is_asked_wrongly_is_refused(model):
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    with pytest.raises(TextOnly, match="image_url"):
        await model.ainvoke([HumanMessage([image])])
    with pytest.raises(InvalidRequest, match="colour"):
        await model.ainvoke("Hello.", colour="red")
    with pytest.raises(ValidationError, match="retries"):
        ChatTorpor(retries=2)
    with pytest.raises(BadRequest, match="telepathy"):
        model.with_structured_output(Point, method="telepathy")
    with pytest.raises(ApiError, match="tools are: none"):
        await model.bind(tool_choice="required").ainvoke("Hello.")


def test_results_come_in_the_order_of_their_calls():
    calls = [{"name": "f", "args": {}, "id": name} for name in ("a", "b", "c")]
    messages = [
        AIMessage("", tool_calls=calls),
        *[ToolMessage(name.upper(), tool_call_id=name) for name in ("c", "a", "b")],
        HumanMessage("Go on."),
        ToolMessage("alone", tool_call_id="d"),
    ]
    assert [one.content for one in said(messages)] == ["", "A", "B", "C", "Go on.", "alone"]


def test_system_messages_at_the_beginning_are_one():
    both = said([SystemMessage("One."), SystemMessage("Two."), HumanMessage("Hi.")])
    assert [(one.role, one.content) for one in both] == [
        ("system", "One.\n\nTwo."),
        ("user", "Hi."),
    ]
