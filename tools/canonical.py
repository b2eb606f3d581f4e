"""JSON as its standard has it: numbers of one type, none of them infinite."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def loads(text: str) -> Any:
    """What a text says. Raises ValueError, also for what Python takes and JSON cannot say again:
    NaN, infinity, and numbers that are so large that they become it."""
    return json.loads(text, parse_constant=_no_number, parse_float=_finite)


def canonical(value: Any) -> str:
    """One text for all values that are the same: ASCII, with names in order, and whole numbers
    without a point: 1, 1.0 and 1e0 are one number. What JSON cannot say is told apart by its repr.
    """
    return json.dumps(
        plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=repr
    )


def plain(value: Any) -> Any:
    """The same with whole numbers as integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"JSON has no {text}")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)
