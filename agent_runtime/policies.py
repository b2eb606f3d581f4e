"""Which idle session leaves the device first.

    lru             the one that has waited longest
    tool_time       Continuum: a session whose tool comes back soon is kept for a while (its TTL),
                    as long as that is worth more than what it holds; the others leave as in lru
    flops_per_byte  Marconi: recency, and the recompute that a held byte spares

Each is a pure function of who is idle and of the time, without memory of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar


@dataclass(frozen=True)
class Idle:
    """A session that waits on the device.

    since:      when its last turn ended
    tokens:     of its history
    states:     state slots that it takes
    held:       bytes that it holds there
    recompute:  FLOPs that its prefill would take
    kept_until: what `Policy.patience` said, as a time
    returns_at: when it is expected back, by its tool's median; None if that is not known
    """

    session: str
    tenant: str
    tool: str
    since: float
    tokens: int
    states: int
    held: int
    recompute: float
    kept_until: float
    returns_at: float | None


class Policy(ABC):
    """Chooses among idle sessions. Running ones are never offered."""

    name: ClassVar[str]

    @abstractmethod
    def leaving(self, idle: Collection[Idle], now: float) -> list[Idle]:
        """All of `idle`, which is not modified, in the order in which they should leave."""

    def patience(self, durations: Sequence[float], *, reload: float, share: float) -> float:
        """Seconds for which a session should be kept now that its turn has ended.

        durations: of the tool that it waits for, ascending
        reload:    seconds that it costs to bring it back
        share:     of the device's memory that it holds, 0 to 1
        """
        return 0.0


class LeastRecentlyUsed(Policy):
    name = "lru"

    def leaving(self, idle: Collection[Idle], now: float) -> list[Idle]:
        return sorted(idle, key=_age)


class ToolTime(Policy):
    name = "tool_time"

    def leaving(self, idle: Collection[Idle], now: float) -> list[Idle]:
        free = [one for one in idle if one.kept_until <= now]
        kept = [one for one in idle if one.kept_until > now]
        # Of those that are all worth keeping, the one that is longest not needed.
        kept.sort(key=lambda one: (-(one.returns_at or one.kept_until), *_age(one)))
        return [*sorted(free, key=_age), *kept]

    def patience(self, durations: Sequence[float], *, reload: float, share: float) -> float:
        """The TTL of most worth: the chance that the tool is back by then times the reload that
        this spares, less the share of the device that is held until then."""
        best, worth, passed = 0.0, 0.0, 0.0
        count = len(durations)
        for rank, ttl in enumerate(durations, start=1):
            passed += ttl
            held = (passed + (count - rank) * ttl) / count  # mean of min(duration, ttl)
            gain = rank / count * reload - share * held
            if gain > worth:
                best, worth = ttl, gain
        return best


class FlopsPerByte(Policy):
    """The score of Marconi (MLSys'25): both terms scaled to 0..1 over the candidates."""

    name = "flops_per_byte"

    def __init__(self, alpha: float = 1.0) -> None:
        """alpha: how much a byte's worth counts beside recency."""
        self.alpha = alpha

    def leaving(self, idle: Collection[Idle], now: float) -> list[Idle]:
        if not idle:
            return []
        recency = _scaled([one.since for one in idle])
        worth = _scaled([one.recompute / max(1, one.held) for one in idle])
        scored = zip(recency, worth, idle, strict=True)
        ordered = sorted(scored, key=lambda row: (row[0] + self.alpha * row[1], *_age(row[2])))
        return [one for _, _, one in ordered]


POLICIES: Mapping[str, type[Policy]] = MappingProxyType(
    {kind.name: kind for kind in (LeastRecentlyUsed, ToolTime, FlopsPerByte)}
)


def _age(one: Idle) -> tuple[float, str]:
    return one.since, one.session


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    if high == low:
        return [0.0] * len(values)
    return [(value - low) / (high - low) for value in values]
