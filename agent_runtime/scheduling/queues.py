"""Turns that wait for a slot: fair between tenants, first come first served within one.

Deficit round robin (Shreedhar and Varghese, 1995) in tokens: each visit of a tenant's queue adds
`quantum` to what it may spend. Over any time in which two tenants both wait, what they were given
differs by at most `quantum + 2 x the largest cost`, however many turns each has queued.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Ask:
    """A turn that wants a slot.

    tokens: of the session's history when the turn will have ended, at most
    known:  of those, the tokens that the session has already
    cost:   tokens that the turn is charged with
    at:     when it was asked for
    """

    session: str
    tenant: str
    tokens: int
    known: int
    cost: int
    at: float


class QueueFull(Exception):
    """One more turn would have to wait than may. `limit` of `whose` queue."""

    def __init__(self, whose: str, limit: int) -> None:
        super().__init__(f"{limit} turns of {whose} wait already")
        self.whose = whose
        self.limit = limit


class FairQueue:
    """Bounded; one turn of a session at a time."""

    def __init__(self, *, limit: int, tenant_limit: int, quantum: int) -> None:
        """limit: turns that may wait; tenant_limit: of one tenant; quantum: tokens"""
        self._limit = limit
        self._tenant_limit = tenant_limit
        self._quantum = quantum
        self._queues: dict[str, deque[Ask]] = {}
        self._deficits: dict[str, int] = {}
        self._ring: deque[str] = deque()
        self._visited = False
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def waiting(self) -> dict[str, int]:
        """Turns that wait, by tenant."""
        return {tenant: len(queue) for tenant, queue in self._queues.items()}

    def put(self, ask: Ask) -> None:
        """Raises QueueFull, and nothing has changed."""
        queue = self._queues.get(ask.tenant)
        if queue is not None and len(queue) >= self._tenant_limit:
            raise QueueFull(f"tenant {ask.tenant}", self._tenant_limit)
        if self._count >= self._limit:
            raise QueueFull("all tenants", self._limit)
        if queue is None:
            queue = self._queues[ask.tenant] = deque()
            self._deficits[ask.tenant] = 0
            self._ring.append(ask.tenant)
        queue.append(ask)
        self._count += 1

    def head(self) -> Ask | None:
        """The turn whose turn it is. The same one until it is taken or leaves."""
        while self._ring:
            tenant = self._ring[0]
            first = self._queues[tenant][0]
            if self._deficits[tenant] >= first.cost:
                return first
            if self._visited:
                self._ring.rotate(-1)
            else:
                self._deficits[tenant] += self._quantum
            self._visited = not self._visited
        return None

    def take(self) -> Ask:
        """Remove the head, of which there must be one."""
        ask = self.head()
        assert ask is not None, "the queue is empty"
        self._deficits[ask.tenant] -= ask.cost
        self._queues[ask.tenant].popleft()
        self._removed(ask.tenant)
        return ask

    def remove(self, ask: Ask) -> bool:
        """Take out a turn that is not wanted any more; whether it still waited."""
        queue = self._queues.get(ask.tenant, ())
        if ask not in queue:
            return False
        self._queues[ask.tenant].remove(ask)
        self._removed(ask.tenant)
        return True

    def _removed(self, tenant: str) -> None:
        self._count -= 1
        if self._queues[tenant]:
            return
        # Who does not wait saves nothing up.
        del self._queues[tenant], self._deficits[tenant]
        if self._ring[0] == tenant:
            self._visited = False
        self._ring.remove(tenant)
