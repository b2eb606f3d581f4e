"""The agent loop as a LangGraph graph: model -> tools -> model ... until no tool is called.

The graph's state holds messages not yet sent and a transcript for people; the model's own
memory is the Torpor session, whose head each transcript entry names.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel, ConfigDict

from agent_runtime.chat import Message
from agent_runtime.models import TurnResult
from tools.registry import Registry


class Step(BaseModel):
    """One entry of the transcript: a model turn, or one tool's result."""

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    text: str
    turn: TurnResult | None = None


class AgentState(TypedDict):
    """session_id: the branch the model continues; pending: messages for its next turn."""

    session_id: str
    pending: list[Message]
    steps: Annotated[list[Step], operator.add]


class TakesTurns(Protocol):
    """The part of the SDK that the loop needs."""

    async def turn(self, session_id: str, messages: list[Message], **options: Any) -> TurnResult:
        """Append messages, generate, commit."""


Observer = Callable[[Step], Awaitable[None]]

Agent = CompiledStateGraph[AgentState, None, AgentState, AgentState]


def build_agent(
    client: TakesTurns, registry: Registry, *, observer: Observer | None = None, **options: Any
) -> Agent:
    """Compile the loop. `options` are TurnRequest fields for every turn; `observer` sees steps."""

    async def observe(steps: list[Step]) -> None:
        if observer is not None:
            for step in steps:
                await observer(step)

    async def model(state: AgentState) -> dict[str, Any]:
        result = await client.turn(state["session_id"], state["pending"], **options)
        steps = [Step(kind="model", name="assistant", text=result.text, turn=result)]
        await observe(steps)
        return {"pending": [], "steps": steps}

    async def tools(state: AgentState) -> dict[str, Any]:
        turn = state["steps"][-1].turn
        assert turn is not None, "the tools node only follows a model turn"
        steps = []
        for call in turn.tool_calls:
            outcome = await registry.call(call.name, call.arguments)
            steps.append(Step(kind="tool", name=call.name, text=outcome.text))
        await observe(steps)
        return {
            "pending": [Message(role="tool", content=step.text) for step in steps],
            "steps": steps,
        }

    def after_model(state: AgentState) -> str:
        turn = state["steps"][-1].turn
        return "tools" if turn is not None and turn.tool_calls else END

    graph = StateGraph(AgentState)
    graph.add_node("model", model)
    graph.add_node("tools", tools)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", after_model, ["tools", END])
    graph.add_edge("tools", "model")
    return graph.compile()


async def ask(agent: Agent, session_id: str, text: str, *, most_steps: int = 50) -> list[Step]:
    """Send one user message and run the loop until the model answers without a tool call.

    Raises GraphRecursionError for a model that keeps calling tools: after `most_steps` model turns
    and tool rounds. What it did until then is committed.
    """
    state: AgentState = {
        "session_id": session_id,
        "pending": [Message(role="user", content=text)],
        "steps": [],
    }
    final = await agent.ainvoke(state, {"recursion_limit": most_steps})
    steps: list[Step] = final["steps"]
    return steps
