"""Where a snapshot's bytes are, at a glance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from state_store.archive.targets import Target, Whereabouts, look, targets_of_resume
from state_store.connection import Control
from state_store.records import Snapshot

Residency = Literal["stored", "archived", "partly", "lost", "tokens", "empty"]

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
    """`residencies` of one."""
    (found,) = await residencies(control, [sample])
    return found


async def residencies(control: Control, samples: Sequence[Sequence[Target]]) -> list[Residency]:
    """Where what resumes need is, going by a sample of it each (see `sample_of`).

    `stored`:   in Redis
    `archived`: only in the archive
    `partly`:   some of it only in the archive, the rest in Redis
    `lost`:     some of it nowhere: it is computed again from its tokens
    `tokens`:   there is only the token log, as of what is shorter than a page: nothing is lost

    One round trip if all is stored, three if not, without reading a byte. A load checks every page
    and every byte.
    """
    keys = [[name for target in sample for name in target.objects] for sample in samples if sample]
    every = list(dict.fromkeys(itertools.chain(*keys)))
    if not every or (await control.all_exist(every))[0]:
        return ["stored" if sample else "tokens" for sample in samples]
    whole = iter(await control.all_exist(*keys) if len(keys) > 1 else [False])
    is_stored = [next(whole) if sample else False for sample in samples]
    asked = dict.fromkeys(
        target
        for sample, done in zip(samples, is_stored, strict=True)
        if not done
        for target in sample
    )
    found = dict(zip(asked, await look(control, asked), strict=True))
    return [
        "stored" if done else _residency([(target, found[target]) for target in sample])
        for sample, done in zip(samples, is_stored, strict=True)
    ]


def _residency(found: Sequence[tuple[Target, Whereabouts]]) -> Residency:
    if not found:
        return "tokens"
    absent = [place for target, place in found if place.present < len(target.names)]
    if any(place.cold is None for place in absent):
        return "lost"
    if len(absent) == len(found):
        return "archived"
    return "partly" if absent else "stored"
