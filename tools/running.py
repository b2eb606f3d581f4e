"""Runs the calls of a message: at once where they may, in bounds, no effect of theirs twice."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import to_json

from tools.approval import Approval, Rule, Verdict
from tools.arguments import Checked
from tools.calls import ToolCall
from tools.context import Context, Progress
from tools.effects import Effect, Entry, Ledger, Policy, Scope, arguments_hash, never_twice
from tools.kept import KeptResults
from tools.once import Once
from tools.registry import Registry
from tools.results import Ending, ToolResult
from tools.tool import Tool

logger = logging.getLogger(__name__)

_PAUSE = 0.1  # seconds before the second attempt; doubled before each further one
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True)
class Place:
    """Where calls are made: branch: whose history; point: where in it, the same whenever this very
    message is read again. See `Entry`.

    restored: what the branch itself has (see `Scope`) is as it was before any call at this point,
              so calls of that scope are made, whatever the ledger knows of them
    """

    branch: str
    point: str
    restored: bool = False


@dataclass(frozen=True)
class Question:
    """A call that a person must allow. position: in the message; why: of the rule that asks"""

    position: int
    call: ToolCall
    why: str


Ask = Callable[[Sequence[Question]], Awaitable[Sequence[bool]]]
Listen = Callable[[int, Progress], None]


class Executor:
    """Runs calls of one registry.

    ledger:   effects are recorded there before and after, so that none happens twice in a branch;
              without one, calls are only run
    policy:   decides about effects that would happen again, see `Repeat`
    approval: which calls may run
    kept:     where the whole of results is that are too long
    dry_run:  calls that are not pure say what they would do; nothing is recorded
    """

    def __init__(
        self,
        registry: Registry,
        *,
        ledger: Ledger | None = None,
        policy: Policy = never_twice,
        approval: Approval | None = None,
        kept: KeptResults | None = None,
        dry_run: bool = False,
    ) -> None:
        self._registry = registry
        self._once = None if ledger is None else Once(ledger, policy)
        self._approval = approval or Approval()
        self._kept = kept
        self._dry_run = dry_run
        self._rooms: dict[str, asyncio.Semaphore] = {}

    def asking_first(self, tools: Collection[str]) -> Executor:
        """The same, but a person is asked before any call of these tools."""
        asking = copy.copy(self)
        asking._approval = self._approval.after(Rule(tool, Verdict.ASK) for tool in tools)
        return asking

    def having(self, tools: Iterable[Tool]) -> Executor:
        """The same, with more tools. Raises BadDefinition if two share a name."""
        more = copy.copy(self)
        more._registry = Registry([*self._registry.tools(), *tools])
        return more

    def questions(self, calls: Sequence[ToolCall]) -> list[Question]:
        """The calls that a person must allow first. Those that are refused anyway are not asked."""
        asked = []
        for position, call in enumerate(calls):
            tool = self._registry.get(call.name)
            checked = None if tool is None else tool.check(call.arguments)
            if checked is None or checked.given is None:
                continue
            rule = self._approval.rule(call.name, checked.all)
            if rule.verdict is Verdict.ASK:
                asked.append(Question(position, call, rule.why))
        return asked

    async def run(
        self,
        calls: Sequence[ToolCall],
        place: Place,
        *,
        allowed: Mapping[int, bool] | None = None,
        ask: Ask | None = None,
        listen: Listen | None = None,
    ) -> list[ToolResult]:
        """Run the calls of one message at the same time, those on one workspace one after another;
        their results in the order of the calls.

        allowed: what a person said about each of `questions(calls)`, by position; instead `ask`
                 is called with them. Where nobody says anything, the call is refused.
        listen:  hears the progress of each call, by position
        Raises nothing but cancellation and what `ask` raises: then nothing has run.
        """
        questions = self.questions(calls)
        if allowed is None:
            said = [] if ask is None or not questions else await ask(questions)
            allowed = {q.position: bool(may) for q, may in zip(questions, said, strict=False)}
        refused = {q.position: q for q in questions if not allowed.get(q.position, False)}

        async def one(
            position: int, call: ToolCall, before: asyncio.Task[ToolResult] | None
        ) -> ToolResult:
            if before is not None:
                await asyncio.wait([before])
            if position in refused:
                return _by_person(refused[position], asked=position in allowed)

            def hear(progress: Progress) -> None:
                try:
                    if listen is not None:
                        listen(position, progress)
                except Exception:  # who listens must not break the call
                    logger.exception("progress of %s was not heard", call.name)

            return await self._call(call, position, place, Context(on_progress=hear))

        tasks: list[asyncio.Task[ToolResult]] = []
        last: dict[Path, asyncio.Task[ToolResult]] = {}
        async with asyncio.TaskGroup() as group:
            for position, call in enumerate(calls):
                tool = self._registry.get(call.name)
                where = None if tool is None else tool.workspace
                before = None if where is None else last.get(where)
                tasks.append(group.create_task(one(position, call, before)))
                if where is not None:
                    last[where] = tasks[-1]
        return [task.result() for task in tasks]

    async def _call(
        self, call: ToolCall, position: int, place: Place, context: Context
    ) -> ToolResult:
        tool = self._registry.get(call.name)
        if tool is None:
            return self._registry.unknown(call.name)
        checked = tool.check(call.arguments)
        if checked.given is None:
            return tool.refusal(checked)
        rule = self._approval.rule(call.name, checked.all)
        if rule.verdict is Verdict.REFUSE:
            why = f"{call.name} was not run: it is not allowed with these arguments. {rule.why}"
            return ToolResult.failed(why.strip(), Ending.REFUSED)
        if tool.effect is Effect.PURE:
            async with self._room(tool):
                return await self._attempts(tool, checked, context)
        if self._dry_run:
            return await self._dry(tool, checked, context)
        entry = Entry(
            branch=place.branch,
            point=place.point,
            position=position,
            tool=call.name,
            arguments_hash=arguments_hash(checked.arguments),
            effect=tool.effect,
            scope=tool.scope,
            at=time.time(),
        )
        context = dataclasses.replace(context, key=entry.key)

        async def attempts() -> ToolResult:
            return await self._attempts(tool, checked, context)

        if self._once is None:
            async with self._room(tool):
                return await attempts()
        if place.restored and entry.scope is Scope.BRANCH:
            return await self._once.run_again(entry, attempts, room=self._room(tool))
        return await self._once.run(entry, checked.arguments, attempts, room=self._room(tool))

    async def _attempts(self, tool: Tool, checked: Checked, context: Context) -> ToolResult:
        """Try as often as the tool says, and cut what is too long."""
        assert checked.given is not None, "wrong arguments are refused before"
        notes = list(checked.notes)
        pause = _PAUSE
        for number in range(1, tool.attempts + 1):
            result = await tool.attempt(checked.given, context)
            if not result.ending.leaves_doubt or number == tool.attempts:
                break
            notes.append(f"attempt {number} of {tool.attempts}: {result.text}")
            context.report(f"attempt {number} of {tool.attempts} has failed")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        cut = tool.cut(result) if self._kept is None else self._kept.cut(tool, result)
        return cut.noted(*notes)

    def _room(self, tool: Tool) -> contextlib.AbstractAsyncContextManager[None]:
        """Held while a call of the tool runs."""
        if tool.at_once is None:
            return contextlib.nullcontext()
        return self._rooms.setdefault(tool.spec.name, asyncio.Semaphore(tool.at_once))

    async def _dry(self, tool: Tool, checked: Checked, context: Context) -> ToolResult:
        if tool.dry_runs:
            async with self._room(tool):
                return await self._attempts(
                    tool, checked, dataclasses.replace(context, dry_run=True)
                )
        given = to_json(checked.arguments, serialize_unknown=True).decode()
        return ToolResult.of(f"dry run: {tool.spec.name} would be called with {given}")


def _by_person(question: Question, *, asked: bool) -> ToolResult:
    name = question.call.name
    if asked:
        why = f"A person has refused this call of {name}."
    else:
        why = f"This call of {name} needs a person's permission, and nobody was asked."
    return ToolResult.failed(why, Ending.REFUSED)
