"""The one clock that decides what is too old, and the id of a store in its archive.

Every age here is a difference of two readings of the store server's clock, so that a client whose
own clock is wrong cannot make another take its work for abandoned.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from state_store.connection import Control

MOVE_LIMIT = 600
"""Seconds after which a move that has not been completed never will be: `chill.lua` refuses."""

ORPHAN_AGE = 3600
"""Seconds after which archived bytes without a cold key are rubbish: well over MOVE_LIMIT, for
the servers of a cluster and a promoted replica have clocks of their own."""


class Clock(NamedTuple):
    """store: 16 hex digits. now: whole seconds."""

    store: str
    now: int


async def read_clock(control: Control, prefix: str) -> Clock:
    store, now = await control.run("clock", [f"{prefix}:store-id"], secrets.token_hex(8))
    return Clock(store.decode(), int(now))
