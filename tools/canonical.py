"""One text for all values that are the same in JSON, whose numbers have one type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def canonical(value: Any) -> str:
    """ASCII, with names in order, and whole numbers without a point: 1, 1.0 and 1e0 are one number.
    What JSON cannot say is told apart by its repr."""
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
