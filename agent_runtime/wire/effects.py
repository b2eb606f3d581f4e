"""The ledger of effects."""

from __future__ import annotations

from agent_runtime.wire.base import Wire
from tools.effects import Entry


class FoundEntry(Wire):
    """Of the ledger of effects; None if there is none."""

    entry: Entry | None


class Entries(Wire):
    entries: list[Entry]
