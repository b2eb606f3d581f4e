"""Durability levels, confirmed by the server and never assumed.

`memory`        the server acknowledged the writes
`fsync`         they are in its append-only file on disk (WAITAOF, Redis 7.2+ and Valkey)
`replicated:n`  n replicas acknowledged them (WAIT)
"""

from __future__ import annotations

from state_store.connection import Control
from state_store.errors import DurabilityNotReached, InvalidDurability, StoreRefused

CONFIRM_TIMEOUT = 5.0  # seconds


def parse_level(level: str) -> int:
    """Replicas that `level` asks for, 0 without. Raises InvalidDurability."""
    name, separator, count = level.partition(":")
    if level in ("memory", "fsync"):
        return 0
    if name == "replicated" and separator and count.isdecimal() and int(count) > 0:
        return int(count)
    raise InvalidDurability(
        f"{level!r} is not a durability level; use memory, fsync or replicated:<n>."
    )


async def confirm(control: Control, prefix: str, level: str) -> str:
    """Wait until everything acknowledged before this call is durable at `level`.

    Both waits speak of writes on their own connection, so a marker is written on it first: the
    log is one sequence, and what came before the marker is confirmed with it.
    Raises DurabilityNotReached; then the writes stand in memory only.
    """
    replicas = parse_level(level)
    if level == "memory":
        return level
    milliseconds = int(CONFIRM_TIMEOUT * 1000)
    try:
        async with control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.incr(f"{prefix}:durable-marker")
            if level == "fsync":
                pipeline.waitaof(1, 0, milliseconds)
            else:
                pipeline.wait(replicas, milliseconds)
            _, reply = await pipeline.execute()
    except StoreRefused as error:
        raise DurabilityNotReached(f"{level} cannot be confirmed: {error}") from error
    reached = reply[0] if level == "fsync" else reply
    if reached < (1 if level == "fsync" else replicas):
        raise DurabilityNotReached(
            f"{level} was not confirmed within {CONFIRM_TIMEOUT:g} s (reached {reached}); "
            "the commit stands in memory."
        )
    return level
