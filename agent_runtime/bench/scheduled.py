"""A scheduler that knows many sessions, and a turn's way through it: asked, started, ended."""

from __future__ import annotations

from agent_runtime.policies import ToolTime
from agent_runtime.scheduling.machine import planned
from agent_runtime.scheduling.queues import Ask, FairQueue
from agent_runtime.scheduling.scheduler import Scheduler
from agent_runtime.scheduling.sizes import Capacity
from agent_runtime.settings import SchedulingSettings
from engine.plan import Question

_TOKENS, _NEW = 10_000, 100  # of a session; of a turn
_MACHINE = Question(
    model="nemotron-3-super",
    gpu="H100",
    gpus=8,
    sessions=1,
    context=65_536,
    prefill_rate=20_000.0,
)
_SMALL = Capacity(
    running=1,
    states=9,
    tokens=10 * _TOKENS,
    running_states=5,
    idle_states=2,
    staging_bytes=64 << 30,
)


class ScheduledTurns:
    """As many sessions as are asked for, each of which has had a turn. All but a few are away:
    ten are more than the device has room for."""

    def __init__(self, sessions: int) -> None:
        machine = planned(
            _MACHINE, slots=None, decode_rate=50.0, staging_bytes=64 << 30, store=True
        )
        settings = SchedulingSettings()
        queue = FairQueue(
            limit=settings.queue_limit,
            tenant_limit=settings.tenant_queue_limit,
            quantum=settings.quantum,
        )
        self._scheduler = Scheduler(_SMALL, machine.sizes, ToolTime(), queue)
        self._sessions = sessions
        self._turns = 0
        for _ in range(sessions):
            self.turn()

    def turn(self) -> None:
        """Of the session whose last one is longest ago. A second passes."""
        now, name = float(self._turns), str(self._turns % self._sessions)
        known = _TOKENS if self._turns >= self._sessions else 0
        self._turns += 1
        self._scheduler.submit(Ask(name, "bench", _TOKENS + _NEW, known=known, cost=_NEW, at=now))
        self._scheduler.step(now)
        self._scheduler.finished(name, now + 0.5, tokens=_TOKENS, tool="shell")
