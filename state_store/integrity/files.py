"""Files that snapshots hold: counted, there for good, and what their names say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
    if not held and all(snapshot.files is None for snapshot in snapshots):
        return
    missing, expiring, wrong = await _count(walk, keys, "look")
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


async def mend_files(walk: Walk, lineages: Sequence[str]) -> None:
    """While a record is missing, what it may have held is not let go of."""
    for lineage in lineages:
        await _count(walk, LineageKeys(walk.prefix, lineage), "raise" if walk.gaps else "mend")


async def _count(walk: Walk, keys: LineageKeys, mode: str) -> tuple[list[bytes], ...]:
    found: list[list[bytes]] = await walk.control.run(
        "count_files",
        [keys.held_files, keys.refs, keys.dead],
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
