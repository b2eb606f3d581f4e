"""Where a snapshot's bytes are, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from state_store.archive.targets import Target, look, targets_of_resume
from state_store.connection import Control
from state_store.records import Snapshot

Residency = Literal["stored", "archived", "partly", "lost", "empty"]

_PAGES = 64  # that are looked at


async def residency(control: Control, prefix: str, history: Sequence[Snapshot]) -> Residency:
    """Where what a resume at the end of `history` (root first) needs is.

    `stored`:   in Redis
    `archived`: only in the archive
    `partly`:   some of it only in the archive, the rest in Redis
    `lost`:     some of it nowhere, or nothing was stored: it is computed again from its tokens
    `empty`:    there is no history

    Looked at are all parts of the state at the boundary and at most _PAGES pages, evenly spaced
    from first to last, in one round trip and without reading a byte: moves take whole histories,
    so pages next to each other share their fate. A load checks every page and every byte.
    """
    if not history:
        return "empty"
    targets = _sample(prefix, history)
    if not targets:
        return "lost"
    archived = 0
    for target, found in zip(targets, await look(control, targets), strict=True):
        if found.present < len(target.names):
            if found.cold is None:
                return "lost"
            archived += 1
    if archived == len(targets):
        return "archived"
    return "partly" if archived else "stored"


def _sample(prefix: str, history: Sequence[Snapshot]) -> list[Target]:
    targets = targets_of_resume(prefix, history)
    states = [target for target in targets if target.ref.kind == "state"]
    pages = targets[len(states) :]
    count = min(len(pages), _PAGES)
    spaced = [pages[i * (len(pages) - 1) // max(count - 1, 1)] for i in range(count)]
    return states + spaced
