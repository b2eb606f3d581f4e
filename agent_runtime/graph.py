"""The agent loop as a LangGraph graph: model -> tools -> model ... until no tool is called.

The graph's state holds messages not yet sent, a transcript for people, and the head of the Torpor
session that is the model's own memory. With a checkpointer, to go back to an earlier checkpoint is
to go back to that head: if the session has moved on since, the model continues in a fork of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import operator
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Annotated, Any, NamedTuple, NotRequired, Protocol, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, StateSnapshot, interrupt
from pydantic import BaseModel, ConfigDict

from agent_runtime import kept_turns
from agent_runtime.errors import BadRequest, BadVerdict, CallsWaiting, TorporError
from agent_runtime.kept_turns import KeptTurn, followed, require_taken
from agent_runtime.sdk import ApiError, ApiUnreachable, Torpor
from agent_runtime.sdk.errors import passes
from agent_runtime.sdk.requests import body_of
from agent_runtime.wire.messages import Message
from agent_runtime.wire.sessions import SessionView
from agent_runtime.wire.turns import TurnRequest, TurnResult
from agent_runtime.workspaces import Opened, SessionWorkspaces
from tools.calls import ToolCall
from tools.context import Progress
from tools.errors import ToolFailed
from tools.registry import Registry
from tools.results import TextPart, ToolResult
from tools.running import Executor, Place, Question
from tools.tool import Tool

logger = logging.getLogger(__name__)


class Step(BaseModel):
    """One entry of the transcript: a model turn, or one tool's result.

    notes: what the model was not told of the result, such as that the call was made before
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    text: str
    turn: TurnResult | None = None
    notes: tuple[str, ...] = ()


STATE_TYPES: tuple[type, ...] = (Message, Step, KeptTurn)
"""What an agent's checkpoints are made of; see `TorporSaver`."""


class AgentState(TypedDict):
    """session_id: the branch the model continues; pending: messages for its next turn

    head: snapshot that the branch ended in, "" if it was empty; None if nobody has looked
    workspace: version of its files that the next turn commits; None if it is the head's
    kept: turns after the head, that are committed when the store is back
    """

    session_id: str
    head: NotRequired[str | None]
    kept: NotRequired[list[KeptTurn]]
    workspace: NotRequired[str | None]
    pending: list[Message]
    steps: Annotated[list[Step], operator.add]


class TakesTurns(kept_turns.TakesTurns, Protocol):
    """The part of the SDK that the loop needs."""

    async def fork(
        self,
        session_id: str,
        *,
        snapshot: str | None = None,
        tokens: int | None = None,
        idempotency_key: str | None = None,
    ) -> SessionView:
        """A new session that ends in `snapshot`, or after `tokens` tokens."""

    async def delete(self, session_id: str) -> None:
        """Drop a session."""


Observer = Callable[[Step], Awaitable[None]]

Agent = CompiledStateGraph[AgentState, None, AgentState, AgentState]


def build_agent(
    client: TakesTurns,
    tools: Registry | Executor,
    *,
    observer: Observer | None = None,
    listen: Callable[[ToolCall, Progress], None] | None = None,
    checkpointer: BaseCheckpointSaver[Any] | None = None,
    ask_first: Collection[str] = (),
    workspaces: SessionWorkspaces | None = None,
    session_tools: Callable[[str], Iterable[Tool]] | None = None,
    **options: Any,
) -> Agent:
    """Compile the loop. `options` are TurnRequest fields for every turn; `observer` sees steps,
    `listen` hears how far calls have come.

    Tools that a turn calls run at the same time, those on one workspace one after another; their
    results go to the model in its order.
    tools:     a registry, whose effects are recorded in the runtime's ledger if the client is a
               `Torpor`, so that none happens twice in a session; or an executor made for it
    workspaces: adds tools that work on the session's files, which go with its snapshots: a fork has
               its own, and who goes back to a checkpoint has them as they were there
    session_tools: makes more tools, of one session, by its id: a fork has its own
    ask_first: names of tools that a person must allow (needs a checkpointer): the graph interrupts
               with `{"calls": [{"name", "arguments"}, ...]}`, and goes on with
               `Command(resume=verdict)`: true, false, or one of these for each call listed
    """

    executor = _executor(client, tools).asking_first(ask_first)

    async def observe(steps: list[Step]) -> None:
        if observer is not None:
            for step in steps:
                await observer(step)

    async def model(state: AgentState, config: RunnableConfig) -> dict[str, Any]:
        taken = await _take_turn(client, state, options, _place_of(config))
        result = taken.result
        steps = [Step(kind="model", name="assistant", text=result.text, turn=result)]
        await observe(steps)
        after: dict[str, Any] = {"head": taken.head, "kept": taken.kept}
        if result.snapshot is not None:
            after["workspace"] = None
        return {"session_id": taken.session_id, "pending": [], "steps": steps, **after}

    async def call_tools(state: AgentState) -> dict[str, Any]:
        turn = state["steps"][-1].turn
        assert turn is not None, "the tools node only follows a model turn"
        calls, session_id = turn.tool_calls, state["session_id"]
        running, opened = executor, None
        if workspaces is not None:
            version = state.get("workspace")  # of a turn that is not committed yet
            snapshot = turn.snapshot if version is None else None
            opened = await workspaces.open(session_id, version, snapshot=snapshot)
            running = running.having(workspaces.tools(opened.path))
        if session_tools is not None:
            running = running.having(session_tools(session_id))
        allowed = _verdicts(running.questions(calls))
        place = Place(session_id, _point(turn), restored=opened is not None)

        def hear(position: int, progress: Progress) -> None:
            if listen is not None:
                listen(calls[position], progress)

        results = await running.run(calls, place, allowed=allowed, listen=hear)
        left = {}
        if workspaces is not None and opened is not None:
            kept, results = await _kept(workspaces, session_id, opened, results)
            left = {"workspace": kept}
        steps = [
            Step(kind="tool", name=call.name, text=result.text, notes=result.notes)
            for call, result in zip(calls, results, strict=True)
        ]
        await observe(steps)
        return {
            "pending": [Message(role="tool", content=step.text) for step in steps],
            "steps": steps,
            **left,
        }

    def after_model(state: AgentState) -> str:
        turn = state["steps"][-1].turn
        return "tools" if turn is not None and turn.tool_calls else END

    graph = StateGraph(AgentState)
    graph.add_node("model", model)
    graph.add_node("tools", call_tools)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", after_model, ["tools", END])
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=checkpointer)


async def ask(
    agent: Agent,
    session: SessionView | str | None,
    text: str,
    *,
    thread: str | RunnableConfig | None = None,
    workspace: str | None = None,
    most_steps: int = 50,
) -> list[Step]:
    """Send one user message and run the loop until the model answers without a tool call, or a
    person is asked (then see `waiting`); the new steps.

    session: whose head a thread begins at, or goes on at; a view of it says which head that is.
             None to go on in a thread's own session, from where that was left
    thread:  of the agent's checkpointer: its name, or the config of one of its checkpoints, to go
             on from there
    workspace: version of the session's files that the message comes with, if they were changed

    Raises CallsWaiting if the thread waits for a person's `answer`; BadRequest for None in a thread
    that has no session. Raises TurnLost for a turn that could not be committed: in a thread,
    `agent.ainvoke(None, ...)` takes it again. Raises GraphRecursionError for a model that keeps
    calling tools: after `most_steps` model turns and tool rounds. What it did until then is
    committed.
    """
    await _require_open(agent, thread, has_session=session is not None)
    state: Any = {"pending": [Message(role="user", content=text)], "steps": []}
    if isinstance(session, SessionView):
        state |= {"session_id": session.id, "head": session.head or ""}
        state |= {"workspace": workspace, "kept": []}
    elif session is not None:
        state |= {"session_id": session, "head": None, "workspace": workspace, "kept": []}
    elif workspace is not None:
        state |= {"workspace": workspace}
    return await _run(agent, state, thread, most_steps)


async def answer(
    agent: Agent,
    verdict: bool | Sequence[bool],
    *,
    thread: str | RunnableConfig,
    most_steps: int = 50,
) -> list[Step]:
    """Go on after a person was asked; the new steps. verdict: see `build_agent`.

    Raises BadVerdict, and the thread still waits then.
    """
    resume = verdict if isinstance(verdict, bool) else list(verdict)
    _each(resume, len(await waiting(agent, thread=thread)))
    return await _run(agent, Command(resume=resume), thread, most_steps)


async def waiting(agent: Agent, *, thread: str | RunnableConfig) -> list[dict[str, Any]]:
    """The calls that a person is asked about in a thread; none if nobody is asked."""
    return _asked_about(await agent.aget_state(_config(thread)))


def _asked_about(state: StateSnapshot) -> list[dict[str, Any]]:
    return [call for one in state.interrupts for call in one.value["calls"]]


async def _require_open(
    agent: Agent, thread: str | RunnableConfig | None, *, has_session: bool
) -> None:
    """Whether a message can come now. Raises BadRequest, CallsWaiting."""
    known, asked = False, 0
    if thread is not None:
        state = await agent.aget_state(_config(thread))
        known, asked = "session_id" in state.values, len(_asked_about(state))
    if not known and not has_session:
        raise BadRequest(
            f"thread {thread!r} has no session: its name is another one, or its checkpoints have "
            "expired. Nothing was sent. Give `ask` the session to go on in."
        )
    if asked:
        raise CallsWaiting(
            f"the thread waits for a person's leave to make {asked} calls; nothing was sent. Give "
            "or refuse it with `answer(agent, True or False, thread=...)`, then send the message."
        )


class _Taken(NamedTuple):
    """A turn, the session that it was taken in, and that session's `head` and `kept` after it."""

    session_id: str
    result: TurnResult
    head: str | None
    kept: list[KeptTurn]


async def _take_turn(
    client: TakesTurns, state: AgentState, options: dict[str, Any], place: str
) -> _Taken:
    """In a new session if the head has moved. Asked for again from the same place it is answered as
    it was the first time. Raises TurnLost if it is neither committed nor kept."""
    session_id, pending = state["session_id"], state["pending"]
    head, kept = state.get("head"), state.get("kept") or []
    if state.get("workspace") is not None:
        options = {**options, "workspace": state["workspace"]}
    for attempt in range(2):
        head, kept = await followed(client, session_id, head, kept)
        asked = _asked(pending, head, options, place)
        try:
            return await _taken(client, session_id, asked, head, kept)
        except ApiError as error:
            if error.code != "head_moved" or (kept and attempt):
                raise
        if not kept:
            break
        # The turn itself has had them committed, and their snapshots are told only after that.
    return await _take_turn_in_fork(client, session_id, asked, head)


async def _take_turn_in_fork(
    client: TakesTurns, session_id: str, asked: KeptTurn, head: str | None
) -> _Taken:
    at_start = None if head else 0
    for key in (f"{asked.key}-fork", None):
        fork = await client.fork(
            session_id, snapshot=head or None, tokens=at_start, idempotency_key=key
        )
        try:
            return await _taken(client, fork.id, asked, head, [])
        except BaseException as error:
            if isinstance(error, ApiUnreachable) or (
                key is not None and isinstance(error, ApiError) and passes(error)
            ):
                raise  # who asks again from the same place has this fork, where a turn may run
            # Nobody would ever know of it.
            gone = isinstance(error, ApiError) and error.code == "not_found"
            if gone and key is not None:  # an earlier attempt failed in it, and it was deleted
                continue
            try:
                await client.delete(fork.id)
            except TorporError as left:
                logger.warning("branch %s is left over: %s", fork.id, left)
            raise
    raise AssertionError("a fork that was just made is there")


async def _taken(
    client: TakesTurns, session_id: str, asked: KeptTurn, head: str | None, kept: list[KeptTurn]
) -> _Taken:
    """Take the turn that is `asked` for, on `head` and the turns that are `kept` after it."""
    key = f"{asked.key}-{session_id}"
    result = await client.turn(session_id, asked.messages, idempotency_key=key, **asked.options)
    require_taken(result)
    if result.snapshot is not None:
        return _Taken(session_id, result, result.snapshot, [])
    now = asked.model_copy(update={"key": key, "said": result.token_ids})
    return _Taken(session_id, result, head, [*kept, now])


def _asked(
    messages: list[Message], head: str | None, options: dict[str, Any], place: str
) -> KeptTurn:
    """What is asked for, with a key that is the same for the same request from the same place."""
    request = body_of(TurnRequest, messages=messages, expected_head=head, **options)
    given = request.model_dump(mode="json", exclude_unset=True, exclude={"messages"})
    known = json.dumps([place, request.model_dump(mode="json")], sort_keys=True)
    key = f"agent-{hashlib.sha256(known.encode()).hexdigest()}"
    return KeptTurn(key=key, messages=messages, options=given, said=[])


def _place_of(config: RunnableConfig) -> str:
    """Of a step in a thread: LangGraph runs a step again under the name that it had, and one that
    is gone back to under a new one."""
    known = config.get("configurable", {})
    return f"{known.get('thread_id')}/{known.get('checkpoint_ns')}"


def _executor(client: TakesTurns, tools: Registry | Executor) -> Executor:
    if isinstance(tools, Executor):
        return tools
    return Executor(tools, ledger=client.ledger if isinstance(client, Torpor) else None)


async def _kept(
    workspaces: SessionWorkspaces, session_id: str, opened: Opened, results: list[ToolResult]
) -> tuple[str | None, list[ToolResult]]:
    """The version that calls have left the files at, and their results, with what is to be told of
    the files."""
    if opened.note is not None:
        results = [one.noted(opened.note) for one in results]
    try:
        return await workspaces.keep(session_id), results
    except ToolFailed as error:  # too large, or what cannot be kept
        why = f"[{error} Its files are as they were before these calls.]"
        return opened.version, [
            one.model_copy(update={"parts": (*one.parts, TextPart(content=why))}) for one in results
        ]


def _point(turn: TurnResult) -> str:
    """The same whenever this turn's calls are run, and no other's."""
    if turn.snapshot is not None:
        return turn.snapshot
    ids = hashlib.sha256(repr(turn.token_ids).encode()).hexdigest()
    return f"{turn.parent or 'beginning'}+{ids}"


def _verdicts(questions: Sequence[Question]) -> dict[int, bool]:
    """What a person says of each call, by position. Interrupts the graph if nobody has yet."""
    if not questions:
        return {}
    asked = [one.call for one in questions]
    verdict = interrupt(
        {"calls": [{"name": call.name, "arguments": dict(call.arguments)} for call in asked]}
    )
    said = _each(verdict, len(asked))
    return {one.position: may for one, may in zip(questions, said, strict=True)}


def _each(verdict: Any, asked: int) -> list[bool]:
    """A verdict for each call that was asked about. Raises BadVerdict."""
    said = verdict if isinstance(verdict, list) else [verdict] * asked
    if not asked or len(said) != asked or not all(isinstance(one, bool) for one in said):
        raise BadVerdict(
            f"{verdict!r} does not answer {asked} calls; use true, false, or a list of these."
            if asked
            else "nobody is asked about calls (0 calls wait): they were answered, or never made."
        )
    return said


async def _run(
    agent: Agent, given: Any, thread: str | RunnableConfig | None, most_steps: int
) -> list[Step]:
    config = _config(thread)
    known = 0
    if thread is not None:
        known = len((await agent.aget_state(config)).values.get("steps", ()))
    final = await agent.ainvoke(given, {**config, "recursion_limit": most_steps})
    steps: list[Step] = final["steps"]
    return steps[known:]


def _config(thread: str | RunnableConfig | None) -> RunnableConfig:
    if thread is None:
        return {}
    return {"configurable": {"thread_id": thread}} if isinstance(thread, str) else thread
