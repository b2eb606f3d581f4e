"""The proof that a store is consistent: every reference counted, every object present and whole.

One walk, in this order, so that what is learnt first explains what comes later:

    lineages ──> live snapshots' objects ──> pins ──> every object's bytes ──> archive ──> lists
    records,     pinned? present?            of no    checksums; unheld ones   cold keys,  of
    counts,                                  commit?  expire?                  condemned   tenants
    logs, leases

It reads in batches, a lineage's structure as one (`lua/survey.lua`), and runs beside writers: what
looks wrong is looked at again if somebody may have been at it. What a crash left half done and
`recover` finishes is no problem. Where the server can leave objects as idle as they were, a check
puts off no archiving (`clients.QuietLogin`).
"""

from __future__ import annotations

from collections.abc import Sequence

from state_store.archive.base import Archive
from state_store.connection import Control
from state_store.integrity.files import check_archived_files, check_files
from state_store.integrity.lineages import check_lineage, discover
from state_store.integrity.listings import check_listings
from state_store.integrity.lost import forget_lost
from state_store.integrity.objects import (
    check_archived,
    check_cold,
    check_fingerprints,
    check_held,
    check_pins,
    check_stored,
)
from state_store.integrity.repair import repair
from state_store.integrity.report import Kind, Problem, Report
from state_store.integrity.walk import Walk
from state_store.layout import LineageKeys

_ROUNDS = 5  # damage may hide other damage


async def check_integrity(
    control: Control, prefix: str, *, archive: Archive | None = None, mend: bool = False
) -> Report:
    """Walk everything. `archive`: also read all that is archived. `mend`: repair what can be
    repaired, and report on what is left then."""
    walk = await _walk(control, prefix, archive)
    if not mend:
        return walk.report
    repaired: dict[Problem, None] = {}
    for _ in range(_ROUNDS):
        chosen = walk.report.repairable
        if not chosen:
            break
        await repair(walk, chosen)
        repaired.update(dict.fromkeys(walk.report.problems))
        walk = await _walk(control, prefix, archive)
    left = set(walk.report.problems)
    walk.report.repaired = [one for one in repaired if one not in left]
    return walk.report


async def _walk(control: Control, prefix: str, archive: Archive | None) -> Walk:
    walk = Walk(control, prefix)
    for lineage, found in sorted((await discover(walk)).items()):
        snapshots = await check_lineage(walk, lineage, found)
        await check_held(walk, LineageKeys(prefix, lineage), snapshots)
        await check_files(walk, LineageKeys(prefix, lineage), snapshots)
    await check_fingerprints(walk)
    await check_pins(walk)
    await check_stored(walk)
    await check_cold(walk)
    if archive is not None:
        await check_archived(walk, archive)
        await check_archived_files(walk, archive)
    await check_listings(walk)
    return walk


__all__: Sequence[str] = ("Kind", "Problem", "Report", "check_integrity", "forget_lost")
