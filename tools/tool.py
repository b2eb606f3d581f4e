"""A tool: what the model sees of it, what it may take, and how one call of it runs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tools.arguments import Arguments, Checked
from tools.context import Context, Progress
from tools.effects import Effect, Scope
from tools.errors import BadDefinition, ToolFailed
from tools.results import Ending, ToolResult

logger = logging.getLogger(__name__)

Run = Callable[[dict[str, Any], Context], Awaitable[Any]]


class ToolSpec(BaseModel):
    """A tool as the model sees it. `parameters` is a JSON schema of type object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """arguments: what it takes; run: what it does with them, see `running`
    effect:    what a call does to the world
    timeout:   seconds one attempt may take
    max_chars: a longer result is cut to so many characters, in the middle
    rest:      tells the model how to get what was cut, see `ToolResult.cut`
    scope:     what that effect touches
    dry_runs:  that it does nothing if `Context.dry_run`, and says what it would do
    attempts:  how often a call is made that breaks or takes too long; more than one only if its
               effect allows it, else BadDefinition
    at_once:   how many calls may run at the same time in one Executor; None for any number
    workspace: the folder whose files it reads or changes, resolved: the calls of one message on one
               folder run one after another, as the model wrote them
    """

    spec: ToolSpec
    arguments: Arguments
    run: Run
    effect: Effect = Effect.EFFECTFUL
    scope: Scope = Scope.WORLD
    dry_runs: bool = False
    timeout: float = 30.0
    max_chars: int = 20_000
    rest: str = ""
    attempts: int = 1
    at_once: int | None = None
    workspace: Path | None = None

    def __post_init__(self) -> None:
        name = self.spec.name
        if self.attempts < 1 or self.max_chars < 1 or not self.timeout > 0:
            raise BadDefinition(f"{name}: attempts, max_chars and timeout are at least one.")
        if self.at_once is not None and self.at_once < 1:
            raise BadDefinition(f"{name}: at_once is at least one.")
        if self.attempts > 1 and self.effect is Effect.EFFECTFUL:
            raise BadDefinition(
                f"{name} is effectful: a call that seems to have failed may have done its work, so "
                "it is never repeated. Declare it idempotent or pure, or let attempts be 1."
            )

    async def call(
        self, arguments: Mapping[str, Any], context: Context | None = None
    ) -> ToolResult:
        """Check the arguments and make one attempt. Raises nothing but cancellation."""
        checked = self.check(arguments)
        if checked.given is None:
            return self.refusal(checked)
        result = await self.attempt(checked.given, context or Context())
        return self.cut(result).noted(*checked.notes)

    def check(self, arguments: Mapping[str, Any]) -> Checked:
        return self.arguments.check(arguments)

    def refusal(self, checked: Checked) -> ToolResult:
        """Tells the model everything that is wrong with its arguments."""
        lines = [f"{self.spec.name} was not run, its arguments are wrong:", *checked.wrong]
        return ToolResult.failed("\n".join(lines), Ending.REFUSED).noted(*checked.notes)

    async def attempt(self, given: dict[str, Any], context: Context) -> ToolResult:
        """Run it once with checked arguments; all of its result. Raises nothing but cancellation.

        A sync function runs in a thread of its own; after the timeout it is abandoned, not stopped.
        """
        name = self.spec.name
        deadline = asyncio.timeout(self.timeout)
        try:
            async with deadline:
                result = ToolResult.of(await self.run(given, context))
        except ToolFailed as error:
            result = ToolResult.failed(str(error))
        except (Exception, asyncio.CancelledError) as error:
            # The model, not our caller, has to deal with a broken tool.
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                raise
            if deadline.expired():
                why = f"{name} took longer than {self.timeout:g} seconds and was given up. "
                result = ToolResult.failed(f"{why}Ask for less, or do without.", Ending.TIMED_OUT)
            else:
                logger.exception("tool %s failed", name)
                why = f"{name} failed: {type(error).__name__}: {error}"
                result = ToolResult.failed(why, Ending.BROKEN)
        return result

    def cut(self, result: ToolResult) -> ToolResult:
        """As much of a result as the model may have."""
        rest = self.rest or f"Call {self.spec.name} again and ask for less."
        return result.cut(self.max_chars, rest)


def running(function: Callable[..., Any], context_name: str | None = None) -> Run:
    """How `function` is run. context_name: its parameter of type Context, if it has one."""

    async def run(given: dict[str, Any], context: Context) -> Any:
        is_async = inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function)
        if context_name is not None:
            given = given | {context_name: context if is_async else _from_thread(context)}
        if inspect.isasyncgenfunction(function):
            return await _gathered(function(**given), context)
        if is_async:
            return await function(**given)
        return await _in_thread(lambda: function(**given))

    return run


async def _gathered(pieces: Any, context: Context) -> Any:
    """What an async generator yields: Progress is reported, the rest is the result."""
    parts = []
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Progress):
                context.on_progress(piece)
            else:
                parts.append(piece)
    if len(parts) == 1:
        return parts[0]
    whole = [ToolResult.of(part) for part in parts]
    return ToolResult(
        parts=tuple(part for one in whole for part in one.parts),
        notes=tuple(note for one in whole for note in one.notes),
        ending=next((one.ending for one in whole if one.error), Ending.DONE),
    )


def _from_thread(context: Context) -> Context:
    """The same for a function in a thread: its reports arrive in this loop, before its result."""
    loop, heard = asyncio.get_running_loop(), context.on_progress

    def tell(progress: Progress) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(heard, progress)

    return dataclasses.replace(context, on_progress=tell)


async def _in_thread(function: Callable[[], Any]) -> Any:
    """A thread of its own, which never keeps others from starting, nor the process from ending:
    pools wait for threads that were given up."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(result)
        else:
            ended.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(function)
        except Exception as raised:
            error = raised
        except BaseException as raised:  # such as SystemExit, which would end our process
            error = RuntimeError(f"{type(raised).__name__}: {raised}")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="tool", daemon=True).start()
    return await ended
