"""When sessions are moved to the archive."""

from __future__ import annotations

from dataclasses import dataclass

from state_store.errors import InvalidPolicy


@dataclass(frozen=True)
class ArchivePolicy:
    """What a sweep moves out. Raises InvalidPolicy when it contradicts itself.

    idle:         seconds; sessions that were not used for so long are moved. None: never for that
    memory_high:  when Redis uses more than this, the idlest sessions are moved ...
    memory_low:   ... until it uses less than this. Both bytes (int) or a fraction of the server's
                  `maxmemory` (float, over 0 to 1.0); None: memory is not looked at
    tenant_quota_bytes: what one tenant's objects in Redis may come to, counted as on the device,
                  and the contents of its files;
                  over it the tenant's idlest sessions are moved. None: without limit
    spare:        seconds; whoever was used within them is moved for no reason at all
    """

    idle: float | None = None
    memory_high: float | int | None = None
    memory_low: float | int | None = None
    tenant_quota_bytes: int | None = None
    spare: float = 60.0

    def __post_init__(self) -> None:
        if (self.memory_high is None) is not (self.memory_low is None):
            raise InvalidPolicy("memory_high and memory_low belong together; give both or none.")
        if self.memory_high is not None and self.memory_low is not None:
            if isinstance(self.memory_high, float) is not isinstance(self.memory_low, float):
                raise InvalidPolicy(
                    "memory_high and memory_low are both bytes (int) or both fractions (float)."
                )
            top = 1.0 if isinstance(self.memory_high, float) else float("inf")
            if not 0 < self.memory_low <= self.memory_high <= top:
                raise InvalidPolicy(
                    f"memory_low {self.memory_low} and memory_high {self.memory_high} do not fit "
                    "0 < memory_low <= memory_high."
                )
        if min(self.idle or 0, self.spare, self.tenant_quota_bytes or 0) < 0:
            raise InvalidPolicy("idle, spare and tenant_quota_bytes cannot be negative.")
