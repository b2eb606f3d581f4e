"""Several ways on from one session: best of n, tree search, sub-agents. All of them are forks.

    best = await best_of(torpor, session.id, "Plan the trip.", n=4, score=score, temperature=0.8)
    print(best.result.text)  # best.session_id is the branch that it ends

A branch that fails does not take the others along. Branches that are not given back are deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agent_runtime.errors import BadRequest, TorporError
from agent_runtime.graph import Agent, ask
from agent_runtime.sdk import Torpor
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnResult

logger = logging.getLogger(__name__)

Score = Callable[[TurnResult], Awaitable[float]]
"""How good an answer is; higher is better."""


@dataclass(frozen=True)
class Branch:
    """A session that a turn was taken in, the turn, and its score."""

    session_id: str
    result: TurnResult
    score: float


@dataclass(frozen=True)
class Report:
    """What a sub-agent came to. error: why it came to nothing, None if it did."""

    task: str
    text: str
    error: str | None


async def best_of(
    torpor: Torpor,
    session_id: str,
    messages: str | Sequence[Message],
    *,
    n: int,
    score: Score,
    seed: int = 0,
    **options: Any,
) -> Branch:
    """Take one turn in each of `n` forks of a session, and keep the one with the best answer.

    seed: of the first branch; the others follow, so that their answers differ if `temperature` > 0
    options: fields of TurnRequest

    The session itself stays where it is. Raises the first error if every branch fails, BadRequest
    for less than one.
    """
    if n < 1:
        raise BadRequest(f"the best of {n} branches is none; nothing was sent. Ask for 1 or more.")
    head = (await torpor.get(session_id)).head
    (best,) = await _widest(torpor, [(session_id, head)], messages, n, 1, score, seed, options)
    return best


async def search(
    torpor: Torpor,
    session_id: str,
    steps: Sequence[str | Sequence[Message]],
    *,
    width: int,
    keep: int,
    score: Score,
    seed: int = 0,
    **options: Any,
) -> Branch:
    """Tree search, breadth first: take each step in `width` forks of every branch, and go on from
    the `keep` best ones. The best branch after the last step.

    Raises the first error of a step whose every branch fails; earlier branches are deleted. Raises
    BadRequest for a search without steps or branches.
    """
    if width < 1 or keep < 1 or not steps:
        raise BadRequest(
            "a search needs steps, and at least one branch to take and to keep; nothing was sent."
        )
    kept: list[Branch] = []
    places = [(session_id, (await torpor.get(session_id)).head)]
    for number, messages in enumerate(steps):
        before = kept
        first_seed = seed + number * width * keep
        try:
            most = keep if number < len(steps) - 1 else 1
            kept = await _widest(torpor, places, messages, width, most, score, first_seed, options)
        finally:
            await _delete(torpor, [branch.session_id for branch in before])
        places = [(branch.session_id, branch.result.snapshot) for branch in kept]
    return kept[0]


async def delegate(
    torpor: Torpor, agent: Agent, session_id: str, tasks: Sequence[str], *, most_steps: int = 50
) -> list[Report]:
    """Have a sub-agent for each task: a fork of the session, which knows all that it knows.

    The reports are for the session's next message, see `merged`.
    """
    head = (await torpor.get(session_id)).head

    async def work(task: str) -> Report:
        fork = await _fork(torpor, session_id, head)
        try:
            steps = await ask(agent, fork, task, most_steps=most_steps)
            return Report(task, steps[-1].text, None)
        finally:
            await _delete(torpor, [fork])

    done = await asyncio.gather(*map(work, tasks), return_exceptions=True)
    reports = []
    for task, found in zip(tasks, done, strict=True):
        if isinstance(found, Report):
            reports.append(found)
        elif isinstance(found, Exception):
            reports.append(Report(task, "", f"{type(found).__name__}: {found}"))
        else:
            raise found
    return reports


def merged(reports: Sequence[Report]) -> str:
    """Reports as one message."""
    return "\n\n".join(
        f"Task: {report.task}\n"
        + (f"Failed: {report.error}" if report.error else f"Result: {report.text}")
        for report in reports
    )


async def _widest(
    torpor: Torpor,
    places: Sequence[tuple[str, str | None]],
    messages: str | Sequence[Message],
    width: int,
    keep: int,
    score: Score,
    seed: int,
    options: dict[str, Any],
) -> list[Branch]:
    """The `keep` best of `width` branches from each place, best first; the others are deleted."""
    made: list[str] = []

    async def grow(place: tuple[str, str | None], number: int) -> Branch:
        fork = await _fork(torpor, *place)
        made.append(fork)
        result = await torpor.turn(fork, messages, **{"seed": seed + number, **options})
        return Branch(fork, result, await score(result))

    best: list[Branch] = []
    try:
        grown = await asyncio.gather(
            *(grow(place, p * width + w) for p, place in enumerate(places) for w in range(width)),
            return_exceptions=True,
        )
        errors = [error for error in grown if isinstance(error, BaseException)]
        branches = [branch for branch in grown if isinstance(branch, Branch)]
        for error in errors:
            if not branches or not isinstance(error, Exception):
                raise error
            logger.warning("a branch of %s failed: %s", places[0][0], error)
        best = sorted(branches, key=lambda branch: -branch.score)[:keep]
    finally:  # also when it is cancelled
        await _delete(torpor, set(made) - {branch.session_id for branch in best})
    return best


async def _fork(torpor: Torpor, session_id: str, head: str | None) -> str:
    """Of where the session was, although it may have moved on."""
    at_start = 0 if head is None else None
    return (await torpor.fork(session_id, snapshot=head, tokens=at_start)).id


async def _delete(torpor: Torpor, session_ids: Sequence[str] | set[str]) -> None:
    for session_id in session_ids:
        try:
            await torpor.delete(session_id)
        except TorporError as error:
            logger.warning("branch %s is left over: %s", session_id, error)
