"""Files that snapshots hold: counted, there for good, and what their names say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from state_store.archive.base import Archive
from state_store.archive.collect_files import check_cold_files, lineages_with
from state_store.integrity.report import Problem
from state_store.integrity.walk import Walk, batches
from state_store.layout import LineageKeys
from state_store.records import Snapshot

_READ = 4  # contents in memory at once


async def check_files(walk: Walk, keys: LineageKeys, snapshots: Sequence[Snapshot]) -> None:
    """snapshots: live ones of the lineage

    What is sealed is counted and looked for, and read by nobody: no key is at hand here.
    """
    async with walk.control.guard() as client:
        held = [raw.decode(errors="replace") for raw in await client.hkeys(keys.held_files)]
        archived = len(await client.hkeys(keys.cold_files))
    if not held and not archived and all(snapshot.files is None for snapshot in snapshots):
        return
    walk.report.archived += archived
    missing, expiring, wrong, strange = await _count(walk, keys, "look")
    for raw, what in zip(strange[::2], strange[1::2], strict=True):
        walk.found(
            "file-archived", _key(keys, raw), f"in the archive, and {what.decode()}",
            repairable=True, lineage=keys.lineage,
        )  # fmt: skip
    for raw in missing:
        walk.found("file-missing", _key(keys, raw), "needed, and not there", repairable=False)
    for raw in expiring:
        walk.found(
            "file-expires", _key(keys, raw), "expires, though a snapshot holds it",
            repairable=True, lineage=keys.lineage,
        )  # fmt: skip
    for raw, has, needs in zip(wrong[::3], wrong[1::3], wrong[2::3], strict=True):
        walk.found(
            "file-references", _key(keys, raw), f"counts {int(has)} references, has {int(needs)}",
            repairable=walk.gaps == 0 or int(has) < int(needs), lineage=keys.lineage,
        )  # fmt: skip
    if not any(snapshot.encrypted for snapshot in snapshots):
        await _check_contents(walk, keys, [one for one in held if one.startswith("blob:")])


async def check_archived_files(walk: Walk, archive: Archive) -> None:
    """That the archive has, whole, what it is said to have of files."""
    async for keys in lineages_with(walk.control, walk.prefix, "cold-files"):
        whole, damaged = await check_cold_files(walk.control, keys, archive)
        walk.report.archived_bytes += whole
        for blob, value, message in damaged:
            walk.found(
                "file-lost", keys.blob(blob), message,
                repairable=True, lineage=keys.lineage, blob=blob, value=value,
            )  # fmt: skip


async def forget_lost_files(walk: Walk, problems: Sequence[Problem]) -> None:
    """Of what the archive has lost it is not said any more that it is there: whoever has such a
    content still is asked for it, and it is whole again."""
    for one in problems:
        keys = LineageKeys(walk.prefix, one.detail["lineage"])
        places = [keys.cold_files, keys.condemned_files]
        blob, value = one.detail["blob"], one.detail["value"]
        await walk.control.run("forget_cold_file", places, blob, value)


async def mend_files(walk: Walk, lineages: Sequence[str]) -> None:
    """While a record is missing, what it may have held is not let go of."""
    for lineage in lineages:
        await _count(walk, LineageKeys(walk.prefix, lineage), "raise" if walk.gaps else "mend")


async def _count(walk: Walk, keys: LineageKeys, mode: str) -> tuple[list[bytes], ...]:
    found: list[list[bytes]] = await walk.control.run(
        "count_files",
        [keys.held_files, keys.refs, keys.dead, keys.cold_files, keys.condemned_files],
        *(mode, keys.snapshot_prefix, keys.files(""), keys.blob("")),
    )
    return tuple(found)


async def _check_contents(walk: Walk, keys: LineageKeys, blobs: Sequence[str]) -> None:
    for batch in batches(sorted(blobs), _READ):
        places = [keys.blob(one.removeprefix("blob:")) for one in batch]
        async with walk.control.guard() as client:
            contents = await client.mget(places)
        for place, content in zip(places, contents, strict=True):
            if content is not None and not place.endswith(hashlib.sha256(content).hexdigest()):
                walk.found("file-damaged", place, "not what its name says", repairable=False)


def _key(keys: LineageKeys, what: bytes) -> str:
    """Of a set or a blob, as the counts name it."""
    kind, _, name = what.decode(errors="replace").partition(":")
    return keys.files(name) if kind == "files" else keys.blob(name)
