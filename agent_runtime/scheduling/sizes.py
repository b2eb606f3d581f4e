"""What a session takes on a device, what a device has, and what computing a session again costs.

idle      = idle_states   x state + tokens x KV per token
running   = running_states x state + tokens x KV per token
recompute = linear x tokens + quadratic x tokens^2          (FLOPs; the square is attention's)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Capacity:
    """Of one engine.

    running:        turns that can be computed at once
    states:         recurrent-state slots of the device, those of running turns included
    tokens:         KV slots of the device
    running_states: state slots that a running turn takes
    idle_states:    state slots that a session takes while it waits on the device
    staging_bytes:  host memory for what is fetched before it is needed
    """

    running: int
    states: int
    tokens: int
    running_states: int
    idle_states: int
    staging_bytes: int

    def __post_init__(self) -> None:
        if self.running < 1 or self.states < self.running_states or self.tokens < 1:
            raise ValueError(f"no turn fits a device with {self}")


@dataclass(frozen=True)
class Sizes:
    """Of one model.

    state, kv_per_token: bytes
    linear, quadratic:   FLOPs, see above
    load_bandwidth:      bytes per second from the store
    """

    state: int
    kv_per_token: int
    linear: float
    quadratic: float
    load_bandwidth: float

    def stored(self, tokens: int) -> int:
        """Bytes that are read to bring a session of `tokens` back: its pages and one state."""
        return self.state + tokens * self.kv_per_token if tokens else 0

    def held(self, tokens: int, states: int) -> int:
        """Bytes that a session of `tokens` with so many states holds on the device."""
        return states * self.state + tokens * self.kv_per_token

    def reload(self, tokens: int) -> float:
        """Seconds to read it, alone on the link."""
        return self.stored(tokens) / self.load_bandwidth

    def recompute(self, tokens: int) -> float:
        """FLOPs to prefill it."""
        return self.linear * tokens + self.quadratic * tokens * tokens
