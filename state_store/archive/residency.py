"""Where a snapshot's bytes are, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from state_store.archive.targets import Target, look, targets_of_resume
from state_store.connection import Control
from state_store.records import Snapshot

Residency = Literal["stored", "archived", "partly", "lost", "empty"]

_PAGES = 64  # that are looked at


def sample_of(prefix: str, history: Sequence[Snapshot]) -> list[Target]:
    """What `residency` looks at of a resume at the end of `history` (root first): all parts of the
    state at the boundary, and at most _PAGES pages, evenly spaced from first to last. Moves take
    whole histories, so pages next to each other share their fate."""
    targets = targets_of_resume(prefix, history)
    states = [target for target in targets if target.ref.kind == "state"]
    pages = targets[len(states) :]
    count = min(len(pages), _PAGES)
    spaced = [pages[i * (len(pages) - 1) // max(count - 1, 1)] for i in range(count)]
    return states + spaced


async def residency(control: Control, sample: Sequence[Target]) -> Residency:
    """Where what a resume needs is, going by a sample of it (see `sample_of`).

    `stored`:   in Redis
    `archived`: only in the archive
    `partly`:   some of it only in the archive, the rest in Redis
    `lost`:     some of it nowhere, or nothing was stored: it is computed again from its tokens

    One round trip if it is stored, two if not, without reading a byte. A load checks every page
    and every byte.
    """
    if not sample:
        return "lost"
    if await control.all_exist([name for target in sample for name in target.objects]):
        return "stored"
    archived = 0
    for target, found in zip(sample, await look(control, sample), strict=True):
        if found.present < len(target.names):
            if found.cold is None:
                return "lost"
            archived += 1
    if archived == len(sample):
        return "archived"
    return "partly" if archived else "stored"
