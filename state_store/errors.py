"""Everything the state store raises.

StoreError
├── StoreUnavailable       no answer: not started, unreachable, cut off, too slow
├── StoreRefused           the server answered with an error (out of memory, no permission, …)
├── NotFound               no such session or snapshot
├── InvalidId              not an id this store gave out
├── InvalidDurability      not a durability level
├── LeaseHeld              another writer holds the session
├── LeaseLost              this writer's lease expired or was taken over; nothing was committed
├── HeadMoved              the session's head is not the expected parent; nothing was committed
├── ObjectsMissing         pages or states to commit are not in the store; nothing was committed
├── CorruptObject          a stored object fails its checksum or is not what its key names
│   └── FingerprintMismatch  it is whole but belongs to another model or state format
├── DurabilityNotReached   committed in memory, but not confirmed at the wanted level
├── EngineSilent           an engine did not answer a command in time
└── EmbeddedServerFailed   the embedded server could not be started or stopped unexpectedly
"""

from __future__ import annotations

from collections.abc import Sequence


class StoreError(Exception):
    """Base of the store's errors. The message says what happened, what was kept, what to do."""


class StoreUnavailable(StoreError):
    pass


class StoreRefused(StoreError):
    pass


class NotFound(StoreError):
    pass


class InvalidId(StoreError):
    pass


class InvalidDurability(StoreError):
    pass


class LeaseHeld(StoreError):
    pass


class LeaseLost(StoreError):
    pass


class HeadMoved(StoreError):
    pass


class ObjectsMissing(StoreError):
    """`missing` names the (kind, page hash) pairs that are not in the store."""

    def __init__(self, message: str, missing: Sequence[tuple[str, str]]) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class CorruptObject(StoreError):
    pass


class FingerprintMismatch(CorruptObject):
    pass


class DurabilityNotReached(StoreError):
    pass


class EngineSilent(StoreError):
    pass


class EmbeddedServerFailed(StoreError):
    pass
