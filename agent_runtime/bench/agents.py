"""Agents that keep a runtime busy, and know exactly which of their turns were answered.

Each agent has one session. It asks for a sum, lets the calculator compute what the model calls for,
takes the time that a slow tool would, says the result, and goes on. It sends every turn with the
head that it knows, so that no turn can happen twice unseen, and remembers each snapshot that it was
given.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent_runtime.errors import TorporError
from agent_runtime.sdk import ApiError, ApiUnreachable, Torpor
from agent_runtime.wire.messages import Message
from agent_runtime.wire.sessions import SessionView
from agent_runtime.wire.turns import TurnResult
from engine.demo_model import dialogues
from tools.calculator import calculator
from tools.registry import Registry

_MAX_TOKENS = 40
_READS = 24  # words of the text that a session begins with, times a few
_TOOL_SECONDS = (1.0, 0.6)  # median, sigma of the logarithm
_PAUSE_SECONDS = (3.0, 0.6)
_AGAIN = 0.2  # seconds before a turn that came to nothing is tried again


@dataclass(frozen=True)
class Answered:
    """A turn that was acknowledged. wall: seconds from asking to the result."""

    result: TurnResult
    wall: float


@dataclass
class Agent:
    """One session and what it was told.

    snapshots:   of the turns that it knows to be committed, in order
    unseen:      of those, the ones whose answer never came, found at the session's head afterwards
    refused:     answers with 429
    broken_off:  turns that ended without an answer
    longest_lease: seconds between the first and the last time in a row that the session was said to
                 have another writer
    """

    session: SessionView
    rng: random.Random
    answered: list[Answered] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    unseen: set[str] = field(default_factory=set)
    refused: int = 0
    broken_off: int = 0
    longest_lease: float = 0.0

    @property
    def head(self) -> str:
        return self.snapshots[-1] if self.snapshots else ""


class Agents:
    """Drives agents through one or several runtimes over the same store."""

    def __init__(self, runtimes: Sequence[Torpor], *, seed: int, least: int = 0) -> None:
        """least: turns that each agent takes in any case"""
        self._runtimes = runtimes
        self._seed = seed
        self._least = least
        self._registry = Registry([calculator])
        self.agents: list[Agent] = []

    async def create(self, count: int) -> None:
        """Sessions, in groups that the service takes at once."""
        for number in range(count):
            rng = random.Random(f"{self._seed} {number}")
            session = await rng.choice(self._runtimes).create(
                system=f"{dialogues.SYSTEM_TEXT} {number}", tools=self._registry.specs()
            )
            self.agents.append(Agent(session, rng))

    async def work(self, done: Callable[[], bool]) -> None:
        """Until `done`: then each ends the turn that it is in."""
        await asyncio.gather(*(self._live(agent, done) for agent in self.agents))

    async def _live(self, agent: Agent, done: Callable[[], bool]) -> None:
        words = agent.rng.choices(("harbour", "licence", "tide", "warranty", "mile"), k=_READS * 4)
        messages = [Message(role="user", content=dialogues.read(" ".join(words)).user)]
        await asyncio.sleep(agent.rng.uniform(0, 2.0))
        while True:
            result = await self._turn(agent, messages, done)
            if done() and len(agent.snapshots) >= self._least:
                return
            if result is not None and result.tool_calls:
                messages = await self._tools(agent, result)
            else:
                left, right = agent.rng.randrange(100), agent.rng.randrange(100)
                sum_of = dialogues.calculate(left, "+", right)
                messages = [Message(role="user", content=sum_of.user)]
                await asyncio.sleep(_seconds(agent.rng, _PAUSE_SECONDS))

    async def _tools(self, agent: Agent, result: TurnResult) -> list[Message]:
        outcomes = [
            await self._registry.call(call.name, call.arguments) for call in result.tool_calls
        ]
        await asyncio.sleep(_seconds(agent.rng, _TOOL_SECONDS))
        return [Message(role="tool", content=outcome.text) for outcome in outcomes]

    async def _turn(
        self, agent: Agent, messages: list[Message], done: Callable[[], bool]
    ) -> TurnResult | None:
        """Until it is answered, or is found to have been committed (None), or nobody asks any
        more (None)."""
        held_since: float | None = None
        while True:
            runtime = agent.rng.choice(self._runtimes)
            asked = time.monotonic()
            try:
                result = await runtime.turn(
                    agent.session.id,
                    messages,
                    max_tokens=_MAX_TOKENS,
                    expected_head=agent.head,
                )
            except ApiError as error:
                if error.code == "overloaded":
                    agent.refused += 1
                    await asyncio.sleep(error.retry_after or _AGAIN)
                    continue
                if error.code == "lease_held":
                    held_since = held_since or time.monotonic()
                    agent.longest_lease = max(agent.longest_lease, time.monotonic() - held_since)
                elif error.code != "head_moved":
                    agent.broken_off += 1
            except ApiUnreachable:
                held_since = None
                agent.broken_off += 1
            else:
                assert result.snapshot is not None, result.not_durable_because
                agent.answered.append(Answered(result, time.monotonic() - asked))
                agent.snapshots.append(result.snapshot)
                return result
            if await self._found_committed(agent):
                return None
            if done():
                return None
            await asyncio.sleep(_AGAIN)

    async def _found_committed(self, agent: Agent) -> bool:
        """Whether the head is one turn further than what was answered."""
        try:
            session = await agent.rng.choice(self._runtimes).get(agent.session.id)
        except TorporError:
            return False
        if session.head in (None, agent.head or None):
            return False
        assert session.head is not None
        agent.snapshots.append(session.head)
        agent.unseen.add(session.head)
        return True


@dataclass(frozen=True)
class Ledger:
    """What the store has of all sessions, beside what the agents were told.

    lost:    turns that were answered and are not there
    doubled: turns that are there and that no agent knows of
    """

    turns: int
    lost: int
    doubled: int


async def audit(torpor: Torpor, agents: Sequence[Agent]) -> Ledger:
    """Compare every session's history with what its agent was told."""
    turns = lost = doubled = 0
    for agent in agents:
        there = [snapshot.id for snapshot in await torpor.snapshots(agent.session.id)]
        turns += len(there)
        lost += len([one for one in agent.snapshots if one not in there])
        doubled += len([one for one in there if one not in agent.snapshots])
        if set(there) == set(agent.snapshots):
            assert there == agent.snapshots, "turns are in another order"
    return Ledger(turns, lost, doubled)


def _seconds(rng: random.Random, spread: tuple[float, float]) -> float:
    median, sigma = spread
    return median * rng.lognormvariate(0.0, sigma)
