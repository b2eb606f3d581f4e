"""What was said in a session: for people, and for tools that search it.

A page is read from the end of the history, or from where the page before it ended, and as far back
as it has messages: never the whole history.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from agent_runtime.errors import BadRequest
from agent_runtime.messages.blocks import Placed, messages_from_end
from agent_runtime.messages.message_log import messages_of
from agent_runtime.turns.stateless import said_on_the_wire
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.messages import Message, SaidMessage
from state_store.errors import InvalidId, NotFound
from state_store.layout import is_snapshot_id, lineage_of
from state_store.records import Session, Snapshot
from state_store.store import StateStore
from tools.define import ToolSpec

_FIRST_STEP, _STEP = 16, 256  # snapshots that are read at once


class _Place(NamedTuple):
    """Of a message: the snapshot that it ends in, where in its history the message's block ends,
    and its number in that."""

    snapshot: str
    end: int
    number: int

    def written(self) -> str:
        return f"{self.snapshot},{self.end},{self.number}"


async def said(
    store: StateStore, turns: Turns, session: Session, *, limit: int, after: str | None
) -> tuple[list[SaidMessage], str | None]:
    """At most `limit` messages of the session's history, the newest first, and where the next ones
    begin after, None if there are none. Those of its forks and of what it was rewound from are not
    among them.

    after: stays a place when the session goes on
    Raises BadRequest for a place that is none, NoModel, NotFound, CorruptObject.
    """
    place = None if after is None else _place(session, after)
    start = session.head if place is None else place.snapshot
    if start is None:
        return [], None
    if await turns.stateless.holds(session):
        found = await _logged(store, start, place, limit + 1)
    else:
        found = await _in_tokens(store, turns, session, start, place, limit + 1)
    shown = found[:limit]
    return [one for _, one in shown], shown[-1][0].written() if len(found) > limit else None


_Found = list[tuple[_Place, SaidMessage]]


async def _logged(store: StateStore, start: str, before: _Place | None, most: int) -> _Found:
    """Of a session without state, whose snapshots have messages for logs."""
    found: _Found = []
    at: str | None = start
    step = _FIRST_STEP
    while at is not None and len(found) < most:
        history = await store.ancestors(at, most=step)
        logs = await store.new_tokens(history)
        for snapshot, log in zip(history[::-1], logs[::-1], strict=True):
            placed = [
                (_Place(snapshot.id, snapshot.total_tokens, number), message)
                for number, message in enumerate(messages_of(log))
            ]
            found += [
                (place, _shown(said_on_the_wire(message), snapshot))
                for place, message in reversed(placed)
                if before is None or place.snapshot != before.snapshot or place < before
            ]
        at, step = history[0].parent, min(2 * step, _STEP)
    return found[:most]


async def _in_tokens(
    store: StateStore, turns: Turns, session: Session, start: str, before: _Place | None, most: int
) -> _Found:
    """Of a session with state, whose messages are read off its tokens."""
    history: list[Snapshot] = []
    logs: list[array[int]] = []
    at: str | None = start
    step = _FIRST_STEP
    while at is not None:
        more = await store.ancestors(at, most=step)
        history, logs = more + history, await store.new_tokens(more) + logs
        at, step = more[0].parent, min(2 * step, _STEP)
        ended = sum(log.count(turns.chat.eos_id) for log in logs)
        if at is None or ended > most:  # else they are not so many
            placed = await asyncio.to_thread(_read, turns, session, history, logs, before, most)
            if at is None or len(placed) == most:
                return _attributed(history, placed)
    raise AssertionError("a history ends")


def _read(
    turns: Turns,
    session: Session,
    history: Sequence[Snapshot],
    logs: Iterable[array[int]],
    before: _Place | None,
    most: int,
) -> list[Placed]:
    ids = array("I")
    for log in logs:
        ids += log
    start = history[-1].total_tokens - len(ids)
    if before is not None:
        ids = ids[: max(0, before.end - start)]
    meta = session.body.meta
    placed: Iterator[Placed] = messages_from_end(
        turns.chat,
        ids,
        start=start,
        system=meta["system"],
        tools=[ToolSpec.model_validate(tool) for tool in meta["tools"]],
    )
    if before is not None:
        last = (before.end, before.number)
        placed = (one for one in placed if (one.end, one.number) < last)
    return list(islice(placed, most))


def _attributed(history: Sequence[Snapshot], placed: Sequence[Placed]) -> _Found:
    totals = [snapshot.total_tokens for snapshot in history]
    found: _Found = []
    for one in placed:
        snapshot = history[bisect_left(totals, one.end)]
        place = _Place(snapshot.id, one.end, one.number)
        found.append((place, _shown(one.message, snapshot)))
    return found


def _shown(message: Message, snapshot: Snapshot) -> SaidMessage:
    return SaidMessage(
        role=message.role,
        text=message.content,
        reasoning=message.reasoning,
        tool_calls=list(message.tool_calls),
        at=snapshot.created_at,
        snapshot=snapshot.id,
    )


def _place(session: Session, after: str) -> _Place:
    snapshot, *numbers = after.split(",")
    try:
        end, number = (int(one) for one in numbers if one.isdecimal() and len(one) < 16)
        if is_snapshot_id(snapshot) and len(numbers) == 2:
            if lineage_of(snapshot) != lineage_of(session.id):
                raise NotFound(f"{snapshot} is not in the history of {session.id}.")
            return _Place(snapshot, end, number)
    except (ValueError, InvalidId):
        pass
    raise BadRequest(
        f"{after[:80]!r} is no place among messages; use the link to the next page that came with "
        "the last one, or begin without `after`."
    )
