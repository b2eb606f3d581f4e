"""The tools: what other agents may do with sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Literal

from mcp.server.fastmcp import Context
from mcp.server.fastmcp.tools import Tool
from mcp.types import ToolAnnotations
from pydantic import Field

from agent_runtime.mcp_server.results import Answer, Deleted, History, SessionList
from agent_runtime.sdk import Torpor
from agent_runtime.wire.events import Progress, Reasoning, Text
from agent_runtime.wire.messages import Effort, HistoryPolicy, Message, OptionValue
from agent_runtime.wire.residency import Resumed, Suspended
from agent_runtime.wire.sessions import Forked, SessionView
from agent_runtime.wire.turns import Cancellation, Durability, TurnResult
from agent_runtime.wire.versions import DiffView, TreeView
from tools.define import ToolSpec

Connect = Callable[[], AbstractAsyncContextManager[Torpor]]
"""A client of the service for one call, with the caller's key."""
Id = Annotated[
    str, Field(description="id of a session, such as ses-…", pattern=r"^ses-[0-9a-f-]{1,100}$")
]
SnapshotId = Annotated[str | None, Field(description="id of a snapshot of the session's history")]
Key = Annotated[
    str | None, Field(description="of idempotency: a repeated call with it is done once")
]
TemplateOptions = Annotated[
    dict[str, OptionValue], Field(description="of the model's chat template")
]
Labels = Annotated[dict[str, str], Field(description="to find it by")]

_LOOKS = ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False)
_ADDS = ToolAnnotations(
    readOnlyHint=False, destructiveHint=False, idempotentHint=False, openWorldHint=False
)
_MOVES = ToolAnnotations(
    readOnlyHint=False, destructiveHint=False, idempotentHint=True, openWorldHint=False
)
_DESTROYS = ToolAnnotations(
    readOnlyHint=False, destructiveHint=True, idempotentHint=True, openWorldHint=False
)
_REWINDS = _DESTROYS.model_copy(update={"idempotentHint": False})
_PHASES = {"load": "reading stored state", "prefill": "reading", "commit": "storing"}


def all_tools(connect: Connect) -> list[Tool]:
    """As the official SDK has them; arguments that a tool does not know are no part of it."""
    tools = _Tools(connect)
    made = [
        Tool.from_function(function, annotations=annotations, structured_output=True)
        for function, annotations in (
            (tools.create_session, _ADDS),
            (tools.list_sessions, _LOOKS),
            (tools.show_session, _LOOKS),
            (tools.turn, _ADDS),
            (tools.cancel, _MOVES),
            (tools.fork, _ADDS),
            (tools.rewind, _REWINDS),
            (tools.suspend, _MOVES),
            (tools.resume, _MOVES),
            (tools.tree, _LOOKS),
            (tools.diff, _LOOKS),
            (tools.delete_session, _DESTROYS),
        )
    ]
    for tool in made:
        tool.parameters["additionalProperties"] = False
    return made


class _Tools:
    """Each reads as its caller's model does: the docstring is the description."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def create_session(
        self,
        system: Annotated[str | None, Field(description="instructions for its model")] = None,
        tools: Annotated[
            list[ToolSpec], Field(description="that its model may call; you run them")
        ] = [],  # noqa: B006
        labels: Labels = {},  # noqa: B006
        template: TemplateOptions = {},  # noqa: B006
        history: Annotated[
            HistoryPolicy,
            Field(description="template: its chat template may show earlier turns anew"),
        ] = "append",
        idempotency_key: Key = None,
    ) -> SessionView:
        """Make a new, empty session."""
        async with self._connect() as torpor:
            return await torpor.create(
                system=system,
                tools=tools,
                labels=labels,
                template=template,
                history=history,
                idempotency_key=idempotency_key,
            )

    async def list_sessions(self, limit: Annotated[int, Field(ge=1, le=1000)] = 50) -> SessionList:
        """List sessions, newest first."""
        async with self._connect() as torpor, contextlib.aclosing(torpor.sessions()) as all_of_them:
            found: list[SessionView] = []
            async for session in all_of_them:
                if len(found) == limit:
                    return SessionList(sessions=found, more=True)
                found.append(session)
        return SessionList(sessions=found, more=False)

    async def show_session(
        self,
        session_id: Id,
        limit: Annotated[int, Field(ge=1, le=1000, description="snapshots at most")] = 50,
    ) -> History:
        """Show a session and the last snapshots of its history, which it can be forked at."""
        async with self._connect() as torpor:
            session = await torpor.get(session_id)
            found = await torpor.snapshots(session_id, last=limit + 1)
        return History(session=session, snapshots=found[-limit:], more=len(found) > limit)

    async def turn(
        self,
        session_id: Id,
        context: Context[Any, Any, Any],
        message: Annotated[str | None, Field(description="what you say to its model")] = None,
        tool_results: Annotated[
            list[str], Field(description="results of the calls it made last, in their order")
        ] = [],  # noqa: B006
        max_tokens: Annotated[int | None, Field(ge=1, le=65536)] = None,
        temperature: Annotated[float | None, Field(ge=0, le=2)] = None,
        top_p: Annotated[float | None, Field(gt=0, le=1)] = None,
        seed: int | None = None,
        stop: Annotated[list[str] | None, Field(description="texts that end the answer")] = None,
        json_schema: Annotated[
            dict[str, Any] | None, Field(description="of the answer, which is JSON then")
        ] = None,
        effort: Annotated[
            Effort | None, Field(description="how much its model is to think; none: not at all")
        ] = None,
        thinking_tokens: Annotated[
            int | None, Field(ge=1, le=65536, description="after which its thinking is ended")
        ] = None,
        template: TemplateOptions = {},  # noqa: B006
        durability: Annotated[
            Durability, Field(description="memory, fsync or replicated:n")
        ] = "memory",
        expected_head: Annotated[
            str | None, Field(description="refuse unless this snapshot is its head")
        ] = None,
        idempotency_key: Key = None,
    ) -> Answer:
        """Say something in a session, or give it the results of its tool calls, and get its model's
        answer. The turn is committed as a snapshot. What is not given of how it is generated is as
        the session has it."""
        messages = [Message(role="tool", content=result) for result in tool_results]
        if message is not None:
            messages.append(Message(role="user", content=message))
        given = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
            "json_schema": json_schema,
            "effort": effort,
            "thinking_tokens": thinking_tokens,
        }
        options = {name: value for name, value in given.items() if value is not None}
        told = _Told(context)
        async with (
            self._connect() as torpor,
            contextlib.aclosing(
                torpor.stream(
                    session_id,
                    messages,
                    template=template,
                    durability=durability,
                    expected_head=expected_head,
                    idempotency_key=idempotency_key,
                    **options,
                )
            ) as events,
        ):
            async for event in events:
                if isinstance(event, TurnResult):
                    return Answer.of(event)
                await told.of(event)
        raise AssertionError("a stream ends with its result, or raises")

    async def cancel(self, session_id: Id) -> Cancellation:
        """End the turn that a session is in. Its head stays."""
        async with self._connect() as torpor:
            return await torpor.cancel(session_id)

    async def fork(
        self,
        session_id: Id,
        snapshot: SnapshotId = None,
        tokens: Annotated[
            int | None, Field(ge=0, description="instead: after so many tokens of its history")
        ] = None,
        labels: Labels = {},  # noqa: B006
        idempotency_key: Key = None,
    ) -> Forked:
        """Make a session that begins with another's history: up to its head, or any point before.
        Copies nothing."""
        async with self._connect() as torpor:
            return await torpor.fork(
                session_id,
                snapshot=snapshot,
                tokens=tokens,
                labels=labels,
                idempotency_key=idempotency_key,
            )

    async def rewind(
        self,
        session_id: Id,
        snapshot: SnapshotId = None,
        turns: Annotated[int | None, Field(ge=1, description="instead: so many turns back")] = None,
        expected_head: str | None = None,
    ) -> SessionView:
        """Move a session back to an earlier snapshot of its own. What came after is lost unless a
        fork holds it."""
        async with self._connect() as torpor:
            return await torpor.rewind(
                session_id, snapshot=snapshot, turns=turns, expected_head=expected_head
            )

    async def suspend(
        self, session_id: Id, durability: Literal["memory", "fsync"] = "fsync"
    ) -> Suspended:
        """Make a session durable and let others use its memory on the engine. It goes on with
        its next turn."""
        async with self._connect() as torpor:
            return await torpor.suspend(session_id, durability=durability)

    async def resume(
        self,
        session_id: Id,
        context: Context[Any, Any, Any],
        strict: Annotated[
            bool, Field(description="refuse to have all of it computed again")
        ] = False,
    ) -> Resumed:
        """Make a suspended session ready on an engine, so that its next turn starts at once."""
        told = _Told(context)
        telling: list[asyncio.Future[None]] = []
        async with self._connect() as torpor:
            resumed = await torpor.resume(
                session_id,
                strict=strict,
                on_progress=lambda event: telling.append(asyncio.ensure_future(told.of(event))),
            )
        await asyncio.gather(*telling)
        return resumed

    async def tree(
        self,
        session_id: Id,
        limit: Annotated[int, Field(ge=1, le=1000)] = 100,
        after: Annotated[str | None, Field(description="`next` of the page before")] = None,
    ) -> TreeView:
        """Show a session, all its forks and theirs, and the snapshots that they reach: a page of
        them, the newest first. `next` is where the next page begins."""
        async with (
            self._connect() as torpor,
            contextlib.aclosing(torpor.tree(session_id, limit=limit, after=after)) as pages,
        ):
            return await anext(pages)

    async def diff(
        self, session_id: Id, other: Annotated[str, Field(description="a session or a snapshot")]
    ) -> DiffView:
        """Show where two histories part."""
        async with self._connect() as torpor:
            return await torpor.diff(session_id, other)

    async def delete_session(self, session_id: Id, expected_head: str | None = None) -> Deleted:
        """Delete a session for good. Its forks stay."""
        async with self._connect() as torpor:
            await torpor.delete(session_id, expected_head=expected_head)
        return Deleted(session_id=session_id)


class _Told:
    """Progress as MCP has it: one number that only grows. Each phase counts as one."""

    def __init__(self, context: Context[Any, Any, Any]) -> None:
        self._context = context
        self._so_far = 0.0

    async def of(self, event: object) -> None:
        match event:
            case Progress(phase=phase, done=done, total=total):
                before = list(_PHASES).index(phase) + (phase == "commit")
                part = done / total if total else 1.0
                await self._tell(before + part, f"{_PHASES[phase]}: {done} of {total}")
            case Text() | Reasoning():
                await self._tell(2.0, "answering")

    async def _tell(self, progress: float, message: str) -> None:
        if progress > self._so_far:
            self._so_far = progress
            await self._context.report_progress(progress, len(_PHASES) + 1, message)
