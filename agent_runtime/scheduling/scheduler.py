"""Decides for one engine, on an abstract clock: who starts, who leaves the device, who is fetched.

    not known ──submit──► queued ──Start──► running ──finished──► idle on the device
        ▲                                                           │        │
        │                                            Suspend (room for others) │ submit
        │                                                           ▼        ▼
        └──────── forgotten ◄──────── away ──Prefetch──► away, staged      queued

A session that left is remembered, within bounds, for two things: how long its tool took, and when
to fetch it again before the result comes.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent_runtime.policies import Idle, Policy
from agent_runtime.scheduling.queues import Ask, FairQueue
from agent_runtime.scheduling.sizes import Capacity, Sizes
from agent_runtime.scheduling.tool_times import REPLY, ToolTimes

_EARLY = 0.25
"""Share of a tool's calls that may come back before the prefetch: it begins when this many have."""
_SMOOTHING = 0.1


class Where(StrEnum):
    """Where a session's state is believed to be when its turn starts."""

    NEW = "new"  # it has none yet
    DEVICE = "device"
    STAGED = "staged"  # in the engine's host memory
    STORED = "stored"


@dataclass(frozen=True)
class Start:
    """Run this turn now."""

    ask: Ask
    where: Where


@dataclass(frozen=True)
class Suspend:
    """Give back the device memory of this session, whose state is in the store."""

    session: str


@dataclass(frozen=True)
class Prefetch:
    """Stage this session's state in host memory: it is expected back soon."""

    session: str
    tokens: int


@dataclass
class Stats:
    """Counted since the start. `starts`: by where the session's state was."""

    starts: dict[Where, int]
    reused_tokens: int = 0
    known_tokens: int = 0
    suspended: int = 0
    prefetched: int = 0
    refused: int = 0


class Scheduler:
    """One engine's slots. Not thread-safe; every method is immediate."""

    def __init__(
        self,
        capacity: Capacity,
        sizes: Sizes,
        policy: Policy,
        queue: FairQueue,
        *,
        prefetch: bool = True,
        remembered: int = 16384,
        is_held: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """prefetch: False to fetch only what has been asked for
        is_held: whether the engine was told to keep a session: to suspend it frees nothing yet
        remembered: sessions away from the device that may be expected back"""
        self.capacity = capacity
        self.sizes = sizes
        self.policy = policy
        self.queue = queue
        self.tool_times = ToolTimes()
        self.stats = Stats(starts=dict.fromkeys(Where, 0))
        self._prefetches = prefetch
        self._remembered = remembered
        self._is_held = is_held
        self._running: dict[str, Ask] = {}
        self._started: dict[str, float] = {}
        self._idle: dict[str, Idle] = {}
        self._away: OrderedDict[str, Idle] = OrderedDict()
        self._staged: OrderedDict[str, int] = OrderedDict()
        self._staged_bytes = 0
        self._due: list[tuple[float, str, float]] = []  # when, session, since
        self._states = self._tokens = 0
        self._turn_seconds = 1.0

    # ---- what happens -------------------------------------------------------------

    def submit(self, ask: Ask) -> None:
        """A turn is asked for, at `ask.at`. Raises QueueFull: then it is not."""
        try:
            self.queue.put(ask)
        except Exception:
            self.stats.refused += 1
            raise
        before = self._idle.get(ask.session) or self._away.get(ask.session)
        if before is not None:
            self.tool_times.saw(ask.tenant, before.tool, max(0.0, ask.at - before.since))

    def withdraw(self, ask: Ask) -> bool:
        """A turn is not wanted any more; whether it still waited."""
        return self.queue.remove(ask)

    def finished(self, session: str, now: float, *, tokens: int, tool: str = REPLY) -> None:
        """A running turn has ended: the session has `tokens` on the device, waits for `tool`."""
        ask = self._leave_slot(session, now)
        tokens = min(tokens, self._clamped(ask)[1])
        idle = self._as_idle(ask, now, tokens, tool)
        self._states += idle.states
        self._tokens += idle.tokens
        self._idle[session] = idle
        self._expect(idle)

    def failed(self, session: str, now: float) -> None:
        """A running turn has ended without a result; what the device holds is not known."""
        self._leave_slot(session, now)

    def left(self, session: str) -> None:
        """An idle session is not on the device any more: suspended, moved or deleted."""
        idle = self._remove_idle(session)
        if idle is not None:
            self._remember(idle)

    # ---- what is to be done ---------------------------------------------------------

    def step(self, now: float) -> list[Start | Suspend | Prefetch]:
        """What is to be done now, in this order. To be asked after each event and at `wake_at`."""
        actions: list[Start | Suspend | Prefetch] = []
        while (ask := self.queue.head()) is not None and len(self._running) < self.capacity.running:
            victims = self._victims(ask, now)
            if victims is None:
                break  # nobody passes it: it would never fit
            for idle in victims:
                self._remove_idle(idle.session)
                self._remember(idle)
                self.stats.suspended += 1
                actions.append(Suspend(idle.session))
            actions.append(self._start(self.queue.take(), now))
        return [*actions, *self._due_prefetches(now)]

    def wake_at(self) -> float | None:
        """When `step` has something to do even if nothing happens."""
        return self._due[0][0] if self._due else None

    def retry_after(self) -> float:
        """Seconds after which a turn that was refused may find room: when a tenth of the queue
        will have been served."""
        served = max(1.0, len(self.queue) / 10)
        return min(60.0, max(1.0, served * self._turn_seconds / self.capacity.running))

    # ---- what is the case -------------------------------------------------------------

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def resident(self) -> Sequence[str]:
        """Idle sessions on the device, the longest idle first."""
        return tuple(self._idle)

    @property
    def used(self) -> tuple[int, int]:
        """State slots and KV slots that are taken."""
        return self._states, self._tokens

    @property
    def away(self) -> int:
        """Sessions that are remembered to come back from the store."""
        return len(self._away)

    # ---- below: how ---------------------------------------------------------------

    def _victims(self, ask: Ask, now: float) -> list[Idle] | None:
        """Who must leave so that it fits; None if it cannot even then."""
        states, tokens = self._clamped(ask)
        own = self._idle.get(ask.session)
        states += self._states - (own.states if own else 0)
        tokens += self._tokens - (own.tokens if own else 0)
        if self._fits(states, tokens):
            return []
        victims = []
        others = [idle for idle in self._idle.values() if idle is not own]
        leaving = self.policy.leaving(others, now)
        for idle in sorted(leaving, key=lambda idle: self._is_held(idle.session)):
            states -= idle.states
            tokens -= idle.tokens
            victims.append(idle)
            if self._fits(states, tokens):
                return victims
        return None

    def _fits(self, states: int, tokens: int) -> bool:
        return states <= self.capacity.states and tokens <= self.capacity.tokens

    def _clamped(self, ask: Ask) -> tuple[int, int]:
        """State and KV slots while it runs. What is larger than the device runs alone."""
        return self.capacity.running_states, min(ask.tokens, self.capacity.tokens)

    def _start(self, ask: Ask, now: float) -> Start:
        where = self._where(ask)
        self._remove_idle(ask.session)
        self._away.pop(ask.session, None)
        self._unstage(ask.session)
        states, tokens = self._clamped(ask)
        self._states += states
        self._tokens += tokens
        self._running[ask.session] = ask
        self._started[ask.session] = now
        self.stats.starts[where] += 1
        self.stats.known_tokens += ask.known
        self.stats.reused_tokens += ask.known if where is Where.DEVICE else 0
        return Start(ask, where)

    def _where(self, ask: Ask) -> Where:
        if ask.session in self._idle:
            return Where.DEVICE
        if not ask.known:
            return Where.NEW
        return Where.STAGED if ask.session in self._staged else Where.STORED

    def _leave_slot(self, session: str, now: float) -> Ask:
        ask = self._running.pop(session)
        states, tokens = self._clamped(ask)
        self._states -= states
        self._tokens -= tokens
        took = now - self._started.pop(session)
        self._turn_seconds += _SMOOTHING * (took - self._turn_seconds)
        return ask

    def _as_idle(self, ask: Ask, now: float, tokens: int, tool: str) -> Idle:
        capacity, sizes = self.capacity, self.sizes
        states = min(capacity.idle_states, capacity.running_states)
        durations = self.tool_times.durations(ask.tenant, tool)
        share = max(states / capacity.states, tokens / capacity.tokens)
        patience = self.policy.patience(durations, reload=sizes.reload(tokens), share=share)
        median = self.tool_times.quantile(ask.tenant, tool, 0.5)
        return Idle(
            session=ask.session,
            tenant=ask.tenant,
            tool=tool,
            since=now,
            tokens=tokens,
            states=states,
            held=sizes.held(tokens, states),
            recompute=sizes.recompute(tokens),
            kept_until=now + patience,
            returns_at=None if median is None else now + median,
        )

    def _expect(self, idle: Idle) -> None:
        """Have it fetched, should it be away by then, so that it is there for most results."""
        if not self._prefetches:
            return
        early = self.tool_times.quantile(idle.tenant, idle.tool, _EARLY)
        if early is not None:
            when = idle.since + max(0.0, early - self.sizes.reload(idle.tokens))
            heapq.heappush(self._due, (when, idle.session, idle.since))

    def _due_prefetches(self, now: float) -> list[Prefetch]:
        found = []
        while self._due and self._due[0][0] <= now:
            _, session, since = heapq.heappop(self._due)
            idle = self._away.get(session)
            if idle is None or idle.since != since:
                continue  # on the device still, or back already
            size = self.sizes.stored(idle.tokens)
            if size > self.capacity.staging_bytes:
                continue
            self._stage(session, size)
            self.stats.prefetched += 1
            found.append(Prefetch(session, idle.tokens))
        return found

    def _remember(self, idle: Idle) -> None:
        self._away[idle.session] = idle
        while len(self._away) > self._remembered:
            self._away.popitem(last=False)

    def _remove_idle(self, session: str) -> Idle | None:
        idle = self._idle.pop(session, None)
        if idle is not None:
            self._states -= idle.states
            self._tokens -= idle.tokens
        return idle

    def _stage(self, session: str, size: int) -> None:
        self._unstage(session)
        self._staged[session] = size
        self._staged_bytes += size
        while self._staged_bytes > self.capacity.staging_bytes:
            self._staged_bytes -= self._staged.popitem(last=False)[1]

    def _unstage(self, session: str) -> None:
        self._staged_bytes -= self._staged.pop(session, 0)
