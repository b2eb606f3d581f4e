"""A message of a person's, and all that follows from it until the model has answered."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.errors import GraphRecursionError

from agent_runtime.chat.asking import Asking
from agent_runtime.chat.toolbox import Toolbox
from agent_runtime.chat.view import View
from agent_runtime.errors import TooManySteps
from agent_runtime.graph import STATE_TYPES, AgentState, Step, answer, build_agent, waiting
from agent_runtime.wire.messages import Message
from agent_runtime.wire.sessions import SessionView
from agent_runtime.wire.turns import TurnResult
from tools.tool import Tool

_MOST_STEPS = 50  # model turns and tool rounds of one exchange

INTERRUPTED = "interrupted"
"""State of a turn whose runtime died."""

Allow = Callable[[Sequence[dict[str, Any]]], Awaitable[list[bool]]]
"""Asks a person about calls, each with `name` and `arguments`: which may run."""


@dataclass(frozen=True)
class Options:
    """Of every turn; what is None is the session's.

    patience: seconds for which a service that is away or full is asked again
    """

    max_tokens: int
    temperature: float | None
    effort: str | None
    patience: float

    def of_turns(self) -> dict[str, Any]:
        """Fields of TurnRequest; what a session decides is left out."""
        given = {"temperature": self.temperature, "effort": self.effort}
        return {
            "max_tokens": self.max_tokens,
            "fit": True,
            "durability": "fsync",
            **{name: value for name, value in given.items() if value is not None},
        }


class Exchanges:
    """With one session.

    session_id: where the conversation is; another one if somebody else went on with this one
    """

    def __init__(
        self,
        session: SessionView,
        toolbox: Toolbox,
        view: View,
        allow: Allow | None,
        options: Options,
    ) -> None:
        """allow: needed where the toolbox asks"""
        self._torpor = toolbox.torpor
        self._view = view
        self._allow = allow
        self._asking = Asking(toolbox.torpor, view, patience=options.patience)
        self._asking.session_id = session.id
        self._before = session.head
        self._results: list[TurnResult] = []
        self._thread = ""

        def own_tools(session_id: str) -> Iterable[Tool]:
            return toolbox.of_session(session_id, session.tools)

        self._agent = build_agent(
            self._asking,
            toolbox.executor(session.tools),
            observer=self._observe,
            checkpointer=InMemorySaver(
                serde=JsonPlusSerializer(allowed_msgpack_modules=list(STATE_TYPES))
            ),
            workspaces=toolbox.workspaces(session.tools),
            session_tools=own_tools,
            **options.of_turns(),
        )

    @property
    def session_id(self) -> str:
        return self._asking.session_id

    async def say(self, text: str) -> list[TurnResult]:
        """The turns that it took. Raises TorporError; what was done until then is committed, and
        `go_on` goes on from there."""
        return await self.send([Message(role="user", content=text)])

    async def send(self, messages: Sequence[Message]) -> list[TurnResult]:
        """As `say`: a person's message, or the results of tools that the model waits for."""
        session = await self._torpor.get(self.session_id)
        self._before, self._results = session.head, []
        self._thread = uuid.uuid4().hex
        begun: AgentState = {
            "session_id": session.id,
            "head": session.head or "",
            "pending": list(messages),
            "steps": [],
        }
        return await self._to_the_end(begun)

    async def go_on(self) -> list[TurnResult] | None:
        """With an exchange that broke off, here or with its runtime; None if there is none."""
        state = await self._agent.aget_state(self._config()) if self._thread else None
        if state is None or not state.next:
            turn = (await self._torpor.get(self.session_id)).turn
            return await self.send(turn.messages) if turn and turn.state == INTERRUPTED else None
        return await self._to_the_end(None)

    async def take_back(self) -> str:
        """Have the session be as it was before the last exchange, which is not over; what became
        of it. Raises ApiError, ApiUnreachable."""
        self._thread = ""
        cancelled = await self._torpor.cancel(self.session_id)
        head = cancelled.head
        own = {result.snapshot for result in self._results}
        if head != self._before:
            if head not in own and not cancelled.committed:
                return "the turn was ended; somebody else has gone on with the session."
            await self._torpor.rewind(
                self.session_id, snapshot=self._before or "", expected_head=head
            )
        return "the turn was ended; the session and its files are as before your message."

    async def _to_the_end(self, begun: AgentState | None) -> list[TurnResult]:
        """begun: None to go on in the thread"""
        try:
            if begun is not None or not await waiting(self._agent, thread=self._thread):
                await self._agent.ainvoke(begun, self._config())
            while calls := await waiting(self._agent, thread=self._thread):
                assert self._allow is not None, "the toolbox asks, and there is nobody to ask"
                said = await self._allow(calls)
                await answer(self._agent, said, thread=self._thread, most_steps=_MOST_STEPS)
        except GraphRecursionError as error:
            raise TooManySteps(
                f"the model keeps calling tools: {len(self._results)} turns and no answer."
            ) from error
        self._thread = ""
        self._view.done(self._results)
        return self._results

    async def _observe(self, step: Step) -> None:
        if step.turn is not None:
            self._results.append(step.turn)
            self._view.took(step.turn)
        else:
            self._view.ran(step)

    def _config(self) -> RunnableConfig:
        return {"configurable": {"thread_id": self._thread}, "recursion_limit": _MOST_STEPS}
