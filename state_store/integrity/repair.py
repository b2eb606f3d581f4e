"""Mending what a check found. Nothing that is alive is ever let go.

Every mend looks at its problem once more, in the script that changes it, and does nothing if that
is gone: repair may be repeated, die anywhere and run beside writers. The order matters: what
ought to be held is held again before what nobody holds is let go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from state_store import garbage
from state_store.integrity.files import forget_lost_files, mend_files
from state_store.integrity.lineages import discover, mend_leases, still_alive, survey
from state_store.integrity.listings import dangling, list_tenants, list_unfinished
from state_store.integrity.report import Kind, Problem
from state_store.integrity.walk import Walk, batches
from state_store.layout import LineageKeys, ObjectRef, lineage_of
from state_store.records import Snapshot

Mend = Callable[[Walk, Sequence[Problem]], Awaitable[None]]


async def repair(walk: Walk, problems: Sequence[Problem]) -> None:
    """Mend the repairable ones among `problems`; a check tells what is left."""
    by_kind: dict[Kind, list[Problem]] = defaultdict(list)
    for problem in problems:
        if problem.repairable:
            by_kind[problem.kind].append(problem)
    for kinds, mend in _MENDS:
        chosen = [problem for kind in kinds for problem in by_kind[kind]]
        if chosen:
            await mend(walk, chosen)


async def _drop_entries(walk: Walk, problems: Sequence[Problem]) -> None:
    """Journals that cannot be read, whose commits cannot finish any more; and sums that are wrong,
    which the next write under a quota makes."""
    calls = [([one.detail["key"]], [one.detail["field"], one.detail["value"]]) for one in problems]
    await walk.control.run_many("drop_entry", calls)


async def _relist_lineages(walk: Walk, problems: Sequence[Problem]) -> None:
    async with walk.control.guard() as client:
        await client.sadd(f"{walk.prefix}:lineages", *(one.subject for one in problems))


async def _restore_fields(walk: Walk, problems: Sequence[Problem]) -> None:
    """A snapshot without a pin gets a new one, under which its objects are held next."""
    calls = [
        (
            [LineageKeys(walk.prefix, one.detail["lineage"]).snapshot(one.subject)],
            [one.detail["parent"], garbage.new_pin_id(), *one.detail["totals"]],
        )
        for one in problems
    ]
    await walk.control.run_many("restore_fields", calls)


async def _recount(walk: Walk, problems: Sequence[Problem]) -> None:
    found = await discover(walk)
    for lineage in sorted({one.detail["lineage"] for one in problems}):
        if lineage in found:
            await survey(walk, lineage, found[lineage], mend=True)


async def _recount_files(walk: Walk, problems: Sequence[Problem]) -> None:
    await mend_files(walk, sorted({one.detail["lineage"] for one in problems}))


async def _mend_leases(walk: Walk, problems: Sequence[Problem]) -> None:
    sessions: dict[str, list[str]] = defaultdict(list)
    for one in problems:
        sessions[one.detail["lineage"]].append(one.detail["session"])
    for lineage, members in sessions.items():
        await mend_leases(walk, lineage, members)


async def _pin_again(walk: Walk, problems: Sequence[Problem]) -> None:
    refs: dict[str, list[ObjectRef]] = defaultdict(list)
    for one in problems:
        refs[one.subject].append(one.detail["ref"])
    for snapshot_id, wanted in refs.items():
        keys = LineageKeys(walk.prefix, lineage_of(snapshot_id))
        async with walk.control.guard() as client:
            body, pin = await client.hmget(keys.snapshot(snapshot_id), "body", "pin")
        if body is None or not pin:
            continue
        snapshot = Snapshot.unpack(body)
        for batch in batches(wanted):
            if not await still_alive(walk, keys, [snapshot]):
                break
            held_by = [pin, int(snapshot.encrypted)]
            calls = [(garbage.keys_to_pin(walk.prefix, snapshot, ref), held_by) for ref in batch]
            await walk.control.run_many("hold", calls)
        if not await still_alive(walk, keys, [snapshot]):
            # It was let go of meanwhile, perhaps before the pins were back.
            await garbage.unpin(walk.control, walk.prefix, snapshot, pin.decode(), wanted)


async def _persist(walk: Walk, problems: Sequence[Problem]) -> None:
    await walk.control.run_many("settle", [(one.detail["keys"], ["hold"]) for one in problems])


async def _unpin_strays(walk: Walk, problems: Sequence[Problem]) -> None:
    """Bytes that nobody holds then are given their time by `_expire`, in the next round."""
    calls = []
    for one in problems:
        pins = one.detail["key"]
        rest = pins.removeprefix(f"{walk.prefix}:pins:".encode())
        beside = [f"{walk.prefix}:{what}:".encode() + rest for what in ("cold", "condemned")]
        calls.append(([pins, *beside], [one.detail["pin"]]))
    await walk.control.run_many("drop_pin", calls)


async def _expire(walk: Walk, problems: Sequence[Problem]) -> None:
    calls = [(one.detail["keys"], ["let go", garbage.GRACE]) for one in problems]
    await walk.control.run_many("settle", calls)


async def _mend_cold(walk: Walk, problems: Sequence[Problem]) -> None:
    calls = [(one.detail["keys"], [one.kind, one.detail["value"]]) for one in problems]
    await walk.control.run_many("mend_cold", calls)


async def _pardon(walk: Walk, problems: Sequence[Problem]) -> None:
    calls = [(one.detail["keys"], [one.detail["member"]]) for one in problems]
    await walk.control.run_many("pardon", calls)


async def _unlist(walk: Walk, problems: Sequence[Problem]) -> None:
    members: dict[str, list[bytes]] = defaultdict(list)
    for one in problems:
        members[one.detail["key"]].append(one.detail["member"])
    for key, suspects in members.items():
        for batch in batches(suspects):
            gone = await dangling(walk, key, batch)
            async with walk.control.guard() as client:
                if gone:
                    await client.zrem(key, *gone)


async def _list_again(walk: Walk, problems: Sequence[Problem]) -> None:
    for one in problems:
        session_id, key = one.detail["session"], one.detail["key"]
        record = LineageKeys(walk.prefix, lineage_of(session_id)).session(session_id)
        async with walk.control.guard() as client:
            if await client.exists(record):
                await client.zadd(key, {session_id: one.detail["score"]}, nx=True)
                if not await client.exists(record):  # deleted between the two
                    await client.zrem(key, session_id)


_MENDS: Sequence[tuple[tuple[Kind, ...], Mend]] = (
    (("journal", "tenant-totals"), _drop_entries),
    (("unlisted-lineage",), _relist_lineages),
    (("snapshot-field",), _restore_fields),
    (
        ("unlisted-session", "references", "stray-snapshot", "stray-log", "totals", "tree"),
        _recount,
    ),
    (("file-references", "file-expires", "file-archived"), _recount_files),
    (("file-lost",), forget_lost_files),
    (("lease",), _mend_leases),
    (("unpinned",), _pin_again),
    (("object-expires", "seed-expires"), _persist),
    (("stray-pin",), _unpin_strays),
    (("object-leaks",), _expire),
    (("cold-key", "cold-unheld"), _mend_cold),
    (("condemned",), _pardon),
    (("unlisted-tenant",), list_tenants),
    (("unlisted-unfinished",), list_unfinished),
    (("list-dangling",), _unlist),
    (("list-missing",), _list_again),
)
