"""How a durability level is written; what each promises is in `durability.py`."""

from __future__ import annotations

import re

from state_store.errors import InvalidDurability

LEVEL = r"^(memory|fsync|replicated:[1-9][0-9]{0,2})$"


def parse_level(level: str) -> int:
    """Replicas that `level` asks for, 0 without. Raises InvalidDurability."""
    if re.fullmatch(LEVEL, level) is None:
        raise InvalidDurability(
            f"{level!r} is not a durability level; use memory, fsync or replicated:<n>."
        )
    return int(level.partition(":")[2] or 0)
