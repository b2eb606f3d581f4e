"""API keys that the store has confirmed, and how long that is believed without it.

    confirmed ── 5 s: no look-up ──┬── the store answers: looked up again
                                   └── it is gone: good for turns, up to `outage_key_seconds`

A key that was revoked is good for no longer than that, wherever it was revoked.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from agent_runtime.errors import RateLimited
from state_store.api_keys import ApiKey

KNOWN_FOR = 5.0  # seconds that a key is believed without asking the store; revoking takes as long
_KNOWN = 4096


@dataclass
class _Known:
    """at: when it was confirmed; minute, made: requests without the store in that minute"""

    key: ApiKey
    at: float
    minute: int = 0
    made: int = 0


class KnownKeys:
    """By the texts that their owners send; the last that were confirmed."""

    def __init__(self, *, outage_seconds: float) -> None:
        self._outage_seconds = outage_seconds
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def believed(self, text: str) -> ApiKey | None:
        """The key, if the store need not be asked."""
        return self._confirmed_within(KNOWN_FOR, text)

    def confirmed(self, text: str, key: ApiKey | None) -> None:
        """What the store says of it now; None: it is none, or none any more."""
        self._known.pop(text, None)
        if key is not None:
            self._known[text] = _Known(key, time.monotonic())
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)

    def without_store(self, text: str) -> ApiKey | None:
        """The key for one request while the store is gone. Raises RateLimited: they are counted
        here then."""
        key = self._confirmed_within(self._outage_seconds, text)
        if key is None or key.per_minute is None:
            return key
        known = self._known[text]
        minute, second = divmod(time.time(), 60.0)
        known.made = known.made + 1 if known.minute == int(minute) else 1
        known.minute = int(minute)
        if known.made > key.per_minute:
            raise rate_limited(key, 60.0 - second)
        return key

    def _confirmed_within(self, seconds: float, text: str) -> ApiKey | None:
        known = self._known.get(text)
        if known is None or time.monotonic() >= known.at + seconds:
            return None
        return None if known.key.is_over(time.time()) else known.key


def rate_limited(key: ApiKey, wait: float) -> RateLimited:
    """wait: seconds until it may make requests again"""
    return RateLimited(
        f"key {key.id} may make {key.per_minute} requests a minute, and has; nothing was done.",
        wait,
    )
