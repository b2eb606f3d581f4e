"""How long tools take, learned from when sessions came back: per tenant and tool.

A person who reads the answer is a tool like any other here, called `REPLY`. One tenant's times say
nothing about another's, and are not used for them.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Sequence

REPLY = ""
"""The tool's name after a turn that called none."""

_SAMPLES = 64
_TOOLS = 4096


class ToolTimes:
    """The last durations of each tool; bounded in samples and in tools."""

    def __init__(self, *, samples: int = _SAMPLES, tools: int = _TOOLS) -> None:
        self._samples = samples
        self._tools = tools
        self._seen: OrderedDict[tuple[str, str], tuple[deque[float], list[float]]] = OrderedDict()

    def saw(self, tenant: str, tool: str, seconds: float) -> None:
        """A session came back after so many seconds."""
        key = (tenant, tool)
        latest, ordered = self._seen.setdefault(key, (deque(), []))
        self._seen.move_to_end(key)
        if len(latest) == self._samples:
            ordered.remove(latest.popleft())
        latest.append(seconds)
        insort(ordered, seconds)
        while len(self._seen) > self._tools:
            self._seen.popitem(last=False)

    def durations(self, tenant: str, tool: str) -> Sequence[float]:
        """The durations that are remembered, ascending; none of a tool not yet seen."""
        seen = self._seen.get((tenant, tool))
        return () if seen is None else seen[1]

    def quantile(self, tenant: str, tool: str, share: float) -> float | None:
        """Seconds within which that `share` of the calls came back; None if nothing is known."""
        ordered = self.durations(tenant, tool)
        if not ordered:
            return None
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
