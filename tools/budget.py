"""Bounds of what it takes to check values and schemas that others wrote, in steps.

A step is what is done in a few microseconds, whatever the values: looking at what one schema says
of one value, at 64 elements of a list, or at 256 characters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tools.errors import ToolsError

_STEPS = 10_000  # that any check may take: less than a tenth of a second
_SECONDS = 0.25  # for all patterns together that are not run in linear time
_TEXT = 256  # characters that are looked at in a step
_ELEMENT = 4  # characters that one of a list or an object, or a number, counts as
_KEPT = 64  # a list or an object of more elements is measured once


class TooCostly(ToolsError):
    """A check was given up: it would have taken too many steps."""


@dataclass
class Budget:
    """What is left, and what is found out once.

    left:     steps
    seconds:  for patterns that are not run in linear time
    kept:     of schemas, by their ids; with the schemas, so that these last
    sizes:    the same of large values
    patterns: that were run
    """

    left: int
    seconds: float = _SECONDS
    kept: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    sizes: dict[int, tuple[Any, int]] = field(default_factory=dict)
    patterns: set[str] = field(default_factory=set)

    def charge(self, steps: int) -> None:
        """Raises TooCostly."""
        self.left -= steps
        if self.left < 0:
            raise TooCostly("to check it takes too long")

    def size(self, value: Any) -> int:
        """Characters, with all that is in it."""
        return _size(value, self.sizes)


@contextlib.contextmanager
def bounded(values: Any) -> Iterator[None]:
    """All checks inside raise TooCostly once they have taken too many steps together: many more
    than it takes to look at everything in `values` once; and Undecided for a pattern that takes too
    long. Inside another `bounded`, that one counts.
    """
    if _budget.get() is not None:
        yield
        return
    budget = Budget(_STEPS)
    with contextlib.suppress(RecursionError):
        budget.left += budget.size(values)
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)


def current() -> Budget:
    budget = _budget.get()
    assert budget is not None, "a schema of others is checked inside `bounded`"
    return budget


def weight(size: int) -> int:
    """Steps that it takes to look at so many characters."""
    return size // _TEXT


def elements(count: int) -> int:
    """Steps that it takes to look at so many of a list or an object, and not into them."""
    return weight(count * _ELEMENT)


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


def _size(value: Any, sizes: dict[int, tuple[Any, int]]) -> int:
    """sizes: of large lists and objects that were measured before; held, so that their ids last"""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, Mapping | list | tuple):
        return _ELEMENT
    if id(value) in sizes:
        return sizes[id(value)][1]
    parts = value.values() if isinstance(value, Mapping) else value
    size = _ELEMENT * (1 + len(value)) + sum(
        _size(part, sizes) for part in parts if not _plain(part)
    )
    if isinstance(value, Mapping):
        size += sum(map(len, map(str, value)))
    if size > _KEPT * _ELEMENT:
        sizes[id(value)] = (value, size)
    return size


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, int | float)
