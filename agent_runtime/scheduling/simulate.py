"""Replays a trace on an engine that is arithmetic, with the scheduler that the runtime uses.

    asked ──► [Scheduler] ──Start──► load ──► prefill ──► decode ──► ended ──tool──► asked …
                                     one link  one at a    slots at
                                     (store)   time        once

The link and the prefill serve one after the other, in the order in which they are asked; a running
turn decodes at a fixed rate. Without a store what has left the device is computed again.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agent_runtime.policies import Policy
from agent_runtime.scheduling.queues import Ask, FairQueue, QueueFull
from agent_runtime.scheduling.scheduler import Prefetch, Scheduler, Start, Where
from agent_runtime.scheduling.sizes import Capacity, Sizes
from agent_runtime.scheduling.trace import Session


@dataclass(frozen=True)
class Machine:
    """An engine, as rates.

    prefill_rate: tokens per second, of all turns together
    decode_rate:  tokens per second of each running turn
    staged_bandwidth: bytes per second from host memory to the device
    store:        False if what leaves the device is lost
    """

    capacity: Capacity
    sizes: Sizes
    prefill_rate: float
    decode_rate: float
    staged_bandwidth: float
    store: bool = True


@dataclass
class Outcome:
    """Of one replay. Times in seconds; waits and ttfts of each turn, in the order of their starts.

    reused_tokens: of the prompts, found on the device; prompt_tokens: all
    reprefilled:   turns that computed again what had been computed before
    refused:       answers with 429; each is asked again after what it was told
    """

    turns: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    reprefilled: int = 0
    moved_bytes: int = 0
    refused: int = 0
    prefetched: int = 0
    suspended: int = 0
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    ttfts: list[float] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)

    @property
    def token_hit_rate(self) -> float:
        return self.reused_tokens / max(1, self.prompt_tokens)

    @property
    def without_reprefill(self) -> float:
        return 1 - self.reprefilled / max(1, self.turns)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def replay(
    sessions: Iterable[Session],
    machine: Machine,
    policy: Policy,
    queue: FairQueue,
    *,
    prefetch: bool = True,
) -> Outcome:
    """Run all turns to their end."""
    return _Replay(machine, Scheduler(
        machine.capacity, machine.sizes, policy, queue, prefetch=prefetch and machine.store
    )).run(sessions)  # fmt: skip


@dataclass
class _Progress:
    """A session in the replay."""

    session: Session
    turn: int = 0
    tokens: int = 0
    asked: float = 0.0

    def ask(self, now: float) -> Ask:
        row = self.session.turns[self.turn]
        return Ask(
            session=self.session.name,
            tenant=self.session.tenant,
            tokens=self.tokens + row.prompt + row.output,
            known=self.tokens,
            cost=row.prompt + row.output,
            at=now,
        )


class _Replay:
    def __init__(self, machine: Machine, scheduler: Scheduler) -> None:
        self._machine = machine
        self._scheduler = scheduler
        self._outcome = Outcome()
        self._progress: dict[str, _Progress] = {}
        self._events: list[tuple[float, int, str, str]] = []
        self._serial = itertools.count()
        self._link_free = self._prefill_free = 0.0
        self._staged_at: dict[str, float] = {}
        self._recompute: dict[str, int] = {}
        self._woken = float("inf")

    def run(self, sessions: Iterable[Session]) -> Outcome:
        for session in sessions:
            self._progress[session.name] = _Progress(session, asked=session.arrival)
            self._at(session.arrival, "ask", session.name)
        now = 0.0
        while self._events:
            now, _, kind, name = heapq.heappop(self._events)
            if kind == "ask":
                self._ask(self._progress[name], now)
            elif kind == "loaded":
                self._prefill(self._progress[name], now)
            elif kind == "ended":
                self._end(self._progress[name], now)
            self._step(now)
        outcome, stats = self._outcome, self._scheduler.stats
        outcome.seconds = now
        outcome.refused, outcome.suspended = stats.refused, stats.suspended
        outcome.prefetched, outcome.reused_tokens = stats.prefetched, stats.reused_tokens
        outcome.starts = {str(where): count for where, count in stats.starts.items()}
        return outcome

    def _at(self, when: float, kind: str, name: str) -> None:
        heapq.heappush(self._events, (when, next(self._serial), kind, name))

    def _ask(self, progress: _Progress, now: float) -> None:
        try:
            self._scheduler.submit(progress.ask(now))
        except QueueFull:
            self._at(now + self._scheduler.retry_after(), "ask", progress.session.name)

    def _step(self, now: float) -> None:
        if now >= self._woken:
            self._woken = float("inf")
        for action in self._scheduler.step(now):
            if isinstance(action, Start):
                self._start(self._progress[action.ask.session], action.where, now)
            elif isinstance(action, Prefetch):
                self._staged_at[action.session] = self._load(action.tokens, now)
        wake = self._scheduler.wake_at()
        if wake is not None and wake < self._woken:
            self._woken = wake
            self._at(wake, "wake", "")

    def _load(self, tokens: int, now: float) -> float:
        """When so many tokens have come over the link."""
        size = self._machine.sizes.stored(tokens)
        self._outcome.moved_bytes += size
        self._link_free = max(self._link_free, now) + size / self._machine.sizes.load_bandwidth
        return self._link_free

    def _start(self, progress: _Progress, where: Where, now: float) -> None:
        machine, name = self._machine, progress.session.name
        staged_at = self._staged_at.pop(name, 0.0)
        ready = now
        self._recompute[name] = 0
        if where in (Where.STORED, Where.STAGED):
            if not machine.store:
                self._recompute[name] = progress.tokens
                self._outcome.reprefilled += 1
            elif where is Where.STAGED:
                size = machine.sizes.stored(progress.tokens)
                ready = max(now, staged_at) + size / machine.staged_bandwidth
            else:
                ready = self._load(progress.tokens, now)
        self._outcome.waits.append(now - progress.asked)
        self._at(ready, "loaded", name)

    def _prefill(self, progress: _Progress, now: float) -> None:
        machine, row = self._machine, progress.session.turns[progress.turn]
        compute = row.prompt + self._recompute.pop(progress.session.name)
        self._prefill_free = max(self._prefill_free, now) + compute / machine.prefill_rate
        self._outcome.ttfts.append(self._prefill_free - progress.asked)
        self._outcome.prompt_tokens += progress.tokens + row.prompt
        ended = self._prefill_free + row.output / machine.decode_rate
        self._at(ended, "ended", progress.session.name)

    def _end(self, progress: _Progress, now: float) -> None:
        row = progress.session.turns[progress.turn]
        progress.tokens += row.prompt + row.output
        progress.turn += 1
        self._outcome.turns += 1
        self._scheduler.finished(progress.session.name, now, tokens=progress.tokens, tool=row.tool)
        if progress.turn < len(progress.session.turns):
            progress.asked = now + row.seconds
            self._at(progress.asked, "ask", progress.session.name)
