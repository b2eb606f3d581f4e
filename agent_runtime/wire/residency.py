"""Where the state of a session is, and having it moved, kept or freed."""

from __future__ import annotations

from pydantic import Field

from agent_runtime.wire.base import Wire
from agent_runtime.wire.turns import Durability


class Whereabouts(Wire):
    """Where the state of a session's head is, as the engine and the store say it now.

    in_store:      where the store has it, whatever an engine holds: `stored`, `archived`, `partly`,
                   `lost`, `tokens`; `empty`, or `none` without state
    engine:        whose device and host memory was looked at, None if no engine fits
    device_tokens, staged_tokens, stored_tokens:
                   how far the session could be picked up from the device, the engine's host memory,
                   and the store or the archive alone
    held_for:      seconds that the device still keeps it, None if it may evict it
    prefilled_tokens, loaded_bytes, offloaded_bytes, failed_loads:
                   what the engine has done for the session since it started: prompt tokens that it
                   computed, bytes from the store to the device and back, loads that failed
    reason:        why the engine could not be asked
    """

    session_id: str
    head: str | None
    in_store: str = "empty"
    tokens: int = 0
    boundary: int = 0
    engine: str | None = None
    device_tokens: int = 0
    staged_tokens: int = 0
    stored_tokens: int = 0
    held_for: float | None = None
    prefilled_tokens: int = 0
    loaded_bytes: int = 0
    offloaded_bytes: int = 0
    failed_loads: int = 0
    reason: str | None = None


class SuspendRequest(Wire, strict=True):
    durability: Durability = "fsync"
    """`memory`, `fsync` or `replicated:n`: what must be confirmed before memory is given up."""
    expected_head: str | None = None
    """If given, nothing is done unless this is the session's head; "" if it is to be empty."""


class Suspended(Wire):
    """`bytes_written`: as in TurnResult, of all turns since the last suspend or resume."""

    session_id: str
    head: str | None
    durable: str
    bytes_written: int
    seconds: float


class PersistRequest(Wire, strict=True):
    durability: Durability = "fsync"
    """`memory`, `fsync` or `replicated:n`: what must be confirmed before the answer."""


class Persisted(Wire):
    """reason: why not all that the device holds of the head is stored, None if it is"""

    session_id: str
    head: str | None
    durable: str
    reason: str | None
    seconds: float


class HoldRequest(Wire, strict=True):
    seconds: float = Field(default=600.0, gt=0, le=86400)


class Held(Wire):
    """held_tokens: of the head's, that the engine keeps on its device for `seconds`"""

    session_id: str
    head: str | None
    engine: str
    held_tokens: int
    seconds: float


class Released(Wire):
    """was_held: whether there was a hold, on the engine that was asked"""

    session_id: str
    engine: str
    was_held: bool


class Dropped(Wire):
    """freed_tokens: whose pages and states were freed; others go on from the rest, or it is not
    stored"""

    session_id: str
    head: str | None
    engine: str
    freed_tokens: int


class ResumeRequest(Wire, strict=True):
    strict: bool = False
    """Refuse (NothingReused) instead of leaving everything to be recomputed."""


class Resumed(Wire):
    session_id: str
    head: str | None
    tokens: int
    restorable_tokens: int
    bytes_read: int
    reason: str | None
    seconds: float
