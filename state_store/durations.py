"""Durations that callers give, as the store takes them."""

from __future__ import annotations

from state_store.errors import InvalidArgument

_LONGEST = 2**53  # milliseconds; far from where the server's clock runs over


def milliseconds(seconds: float) -> int:
    """Raises InvalidArgument for less than one: Redis takes that for an end at once, or for
    nothing at all."""
    if not 1 <= seconds * 1000 < _LONGEST:
        raise InvalidArgument(
            f"{seconds:g} s is no time that anything can live; nothing was changed. Give at least "
            "0.001 s."
        )
    return int(seconds * 1000)
