"""Regular expressions from outside, run in bounded time in a process that serves everybody.

RE2        nearly all patterns: in time that is linear in the text
`regex`    those that look ahead, look behind or refer back, for which there is no such way: it
           can be stopped
"""

from __future__ import annotations

import functools
from typing import Any

import re2
import regex

from tools.errors import ToolsError

_LONGEST = 4000  # characters of one that is run at all, since some are kept
_LONGEST_BESIDES = 1000  # of one that RE2 does not take
_MOST_SHOWN = 200
_PATTERN_BYTES = 1 << 20  # that a pattern may take


class Undecided(ToolsError):
    """Whether a pattern matches cannot be said in the time that there is."""


def is_found_linearly(pattern: str, text: str) -> bool | None:
    """Whether the pattern is found in the text; None if RE2 does not take it. Classes such as `\\d`
    are those of ASCII."""
    compiled = _linear(pattern) if len(pattern) <= _LONGEST else None
    return None if compiled is None else compiled.search(text.encode(errors="replace")) is not None


def is_found(pattern: str, text: str, *, seconds: float) -> bool:
    """The same of a pattern that RE2 does not take. seconds: of this process

    Raises regex.error for what is no pattern in any notation, and Undecided.
    """
    if seconds <= 0:
        raise _takes_too_long(pattern)
    if len(pattern) > _LONGEST_BESIDES:
        raise Undecided(
            f"the pattern {_shown(pattern)} cannot be checked: it has {len(pattern)} characters"
        )
    try:
        return _compiled(pattern, regex.ASCII).search(text, timeout=seconds) is not None
    except TimeoutError:
        raise _takes_too_long(pattern) from None


def is_whole(pattern: str, text: str, *, seconds: float) -> bool:
    """Whether the pattern matches the whole text; it means what it means to Python's `re`, where a
    dot is a line's end too. Raises regex.error, Undecided."""
    try:
        return _compiled(pattern, regex.DOTALL).fullmatch(text, timeout=seconds) is not None
    except TimeoutError:
        raise _takes_too_long(pattern) from None


@functools.lru_cache(maxsize=128)
def _linear(pattern: str) -> Any:
    """None if RE2 does not take it."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_BYTES
    try:
        return re2.compile(pattern.encode(errors="replace"), options)
    except re2.error:
        return None


@functools.lru_cache(maxsize=128)
def _compiled(pattern: str, flags: int) -> Any:
    return regex.compile(pattern, flags)


def _takes_too_long(pattern: str) -> Undecided:
    return Undecided(
        f"the pattern {_shown(pattern)} cannot be checked: what it looks for takes too long"
    )


def _shown(pattern: str) -> str:
    return repr(pattern[:_MOST_SHOWN])
