"""Makes sure, by a ledger, that no effect happens twice in a branch, nor silently in a fork."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tools.effects import Effect, Entry, Ledger, Policy, Repeat, Repeated, Scope, State
from tools.results import Ending, FilePart, TextPart, ToolResult

logger = logging.getLogger(__name__)

_MOST_FILE_BYTES = 64 * 1024

Room = contextlib.AbstractAsyncContextManager[Any]


class Once:
    """policy: decides where an effect would or might happen again"""

    def __init__(self, ledger: Ledger, policy: Policy) -> None:
        self._ledger = ledger
        self._policy = policy

    async def run(
        self,
        entry: Entry,
        arguments: Mapping[str, Any],
        call: Callable[[], Awaitable[ToolResult]],
        *,
        room: Room,
    ) -> ToolResult:
        """Make the call that `entry` names, unless it was made. room: held while it runs, and not
        while somebody decides."""
        try:
            own = await self._ledger.find(entry)
            others = await self._inherited(entry) if own is None else []
        except Exception as error:
            return _cannot_record(entry, error)
        if own is not None and (known := _result_of(own)) is not None:
            return known.noted("it was called before in this branch, and is not called again")
        if others:
            settled = await self._settle_fork(entry, arguments, others)
            if settled is not None:
                return settled
        if own is not None and {own.effect, entry.effect} != {Effect.IDEMPOTENT}:
            settled = await self._settle_unknown(own, arguments)
            if settled is not None:
                return settled
        async with room:
            return await self._make(entry, call, again=own is not None)

    async def run_again(
        self, entry: Entry, call: Callable[[], Awaitable[ToolResult]], *, room: Room
    ) -> ToolResult:
        """Make the call that `entry` names, also if it was made: what it did was undone."""
        try:
            await self._ledger.begin(entry)
        except Exception as error:
            return _cannot_record(entry, error)
        async with room:
            return await self._make(entry, call, again=True)

    async def _make(
        self, entry: Entry, call: Callable[[], Awaitable[ToolResult]], *, again: bool
    ) -> ToolResult:
        try:
            # Another process may have begun it since we looked.
            standing = None if again else await self._ledger.begin(entry)
        except Exception as error:
            return _cannot_record(entry, error)
        if standing is not None:
            return _result_of(standing) or _unknown(standing)
        result = await call()
        if result.ending.leaves_doubt:
            state = State.UNKNOWN
            if entry.effect is Effect.EFFECTFUL and result.ending is not Ending.UNKNOWN:
                what = "Whether it did its work is not known: look before you call it again."
                result = result.model_copy(
                    update={"parts": (*result.parts, TextPart(content=what))}
                )
        else:
            state = State.DONE
        return await self._end(entry, state, result)

    async def _end(self, entry: Entry, state: State, result: ToolResult) -> ToolResult:
        recorded = entry.model_copy(update={"state": state, "result": _recordable(result)})
        try:
            await self._ledger.end(recorded)
        except Exception as error:
            logger.exception("the end of %s is not recorded", entry.call_id)
            return result.noted(f"the ledger does not know that it ended: {error}")
        return result

    async def _inherited(self, entry: Entry) -> list[Entry]:
        """None if every branch has its own of what the effect touches."""
        if entry.scope is Scope.BRANCH:
            return []
        return [one for one in await self._ledger.inherited(entry) if not one.taken_from]

    async def _settle_fork(
        self, entry: Entry, arguments: Mapping[str, Any], others: list[Entry]
    ) -> ToolResult | None:
        """What an effect that another branch has had is answered with; None to have it again."""
        very_same = [other for other in others if other.call_id == entry.call_id]
        earlier = (very_same or others)[-1]
        decision = await self._decide(Repeated(entry.tool, arguments, earlier, same_branch=False))
        result = _result_of(earlier)
        if decision is Repeat.RUN:
            return None
        if decision is Repeat.REUSE and result is not None:
            if not very_same:
                what = f"[{entry.tool} did this before, and did not do it again. Its result was:]"
                result = result.model_copy(
                    update={"parts": (TextPart(content=what), *result.parts)}
                )
            result = result.noted(f"its result is that of branch {earlier.branch}")
            taken = entry.model_copy(update={"taken_from": earlier.branch})
            return await self._end(taken, State.DONE, result)
        if result is None:
            return _unknown(earlier)
        why = f"{entry.tool} was not run: it did this before this branch began."
        return ToolResult.failed(why, Ending.REFUSED)

    async def _settle_unknown(self, own: Entry, arguments: Mapping[str, Any]) -> ToolResult | None:
        decision = await self._decide(Repeated(own.tool, arguments, own, same_branch=True))
        if decision is Repeat.RUN:
            return None
        try:
            await self._ledger.end(own.model_copy(update={"state": State.UNKNOWN}))
        except Exception:
            logger.exception("%s is not recorded as unknown", own.call_id)
        return _unknown(own)

    async def _decide(self, repeated: Repeated) -> Repeat:
        try:
            return await self._policy(repeated)
        except Exception:
            logger.exception("the policy failed: %s is not repeated", repeated.tool)
            return Repeat.REFUSE


def _result_of(entry: Entry) -> ToolResult | None:
    return entry.result if entry.state is State.DONE else None


def _unknown(entry: Entry) -> ToolResult:
    return ToolResult.failed(
        f"{entry.tool} was started before and never reported back: whether it did its work is not "
        "known, and it was not called again. Look whether it did, or ask the user.",
        Ending.UNKNOWN,
    )


def _cannot_record(entry: Entry, error: Exception) -> ToolResult:
    logger.error("%s was not called, the ledger fails: %s", entry.tool, error)
    return ToolResult.failed(
        f"{entry.tool} was not called: what it does cannot be recorded now. Try again later.",
        Ending.REFUSED,
    ).noted(f"the ledger failed: {error}")


def _recordable(result: ToolResult) -> ToolResult:
    """Without the bytes of large files: a ledger is no place for them."""

    def slim(part: Any) -> Any:
        large = isinstance(part, FilePart) and part.data is not None
        if large and len(part.data) > _MOST_FILE_BYTES:
            return part.model_copy(update={"data": None})
        return part

    slimmed = tuple(slim(part) for part in result.parts)
    if slimmed == result.parts:
        return result
    noted = result.noted(f"files of more than {_MOST_FILE_BYTES} bytes are not recorded")
    return noted.model_copy(update={"parts": slimmed})
