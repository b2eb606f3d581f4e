"""Records: sessions, snapshots, counts, token logs, leases and journals of every lineage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from state_store.cipher import SEALED_BYTES
from state_store.errors import CorruptObject, InvalidId
from state_store.garbage import read_journal
from state_store.integrity.walk import Lineage, Walk, batches, pairs
from state_store.layout import LineageKeys, lineage_of
from state_store.records import LabelSet, SessionBody, Snapshot
from state_store.snapshots import identity_of

_TAGGED = re.compile(r"\{(?:tenant:([^}]*)|([0-9a-f]{16}))\}:([a-z]+)(?::(.*))?", re.DOTALL)
_RECORDS = 32  # snapshot records read in one round trip; a long turn's has half a megabyte
_LOG_BYTES = 8 << 20  # of token logs read in one round trip


@dataclass
class Node:
    """One snapshot as its lineage's structure shows it."""

    id: str
    parent: str
    pin: bytes
    log_bytes: int


@dataclass
class Survey:
    """A lineage's structure at one moment; see `lua/survey.lua`."""

    gaps: int
    heads: dict[str, str]
    nodes: dict[str, Node]
    counted: dict[str, str]
    dead: set[str]
    unlisted: list[str]
    strays: list[str]
    logs: list[str]
    wanted: dict[str, int]
    totals: list[str]
    misplaced: list[str]
    phantoms: list[str]


async def discover(walk: Walk) -> dict[str, Lineage]:
    """Every lineage of which there is any key, and every tenant."""
    lineages: dict[str, Lineage] = {}
    async with walk.control.guard() as client:
        for raw in await client.smembers(f"{walk.prefix}:lineages"):
            lineages.setdefault(raw.decode(errors="replace"), Lineage()).listed = True
    async for keys in walk.control.scan(f"{walk.prefix}:{{*}}:*"):
        for key in keys:
            text = key.decode(errors="replace").removeprefix(f"{walk.prefix}:")
            match = _TAGGED.fullmatch(text)
            if match is None:
                continue
            tenant, lineage, name, rest = match.groups()
            if tenant is not None:
                walk.tenants.setdefault(tenant, set()).add(name if rest is None else text)
                continue
            found = lineages.setdefault(lineage, Lineage())
            by_name = {
                "session": found.sessions,
                "snapshot": found.snapshots,
                "tokens": found.logs,
                "lease": found.leases,
            }
            if rest is not None and name in by_name:
                by_name[name].add(rest)
    return lineages


async def survey(walk: Walk, lineage: str, found: Lineage, *, mend: bool = False) -> Survey:
    keys = LineageKeys(walk.prefix, lineage)
    strays = sorted(found.snapshots | found.logs)
    sessions = sorted(found.sessions)
    reply = await walk.control.run(
        "survey",
        [keys.sessions, keys.refs, keys.dead, keys.usage, keys.tree],
        "mend" if mend else "look",
        keys.session(""),
        keys.snapshot_prefix,
        keys.tokens(""),
        len(sessions),
        *sessions,
        *strays,
    )
    gaps, heads, snapshots, refs, dead, unlisted, tops, logs, wanted, totals, *tree = reply
    nodes = {}
    for at in range(0, len(snapshots), 4):
        raw_id, parent, pin, log_bytes = snapshots[at : at + 4]
        nodes[_text(raw_id)] = Node(_text(raw_id), _text(parent), pin, log_bytes)
    return Survey(
        gaps=gaps,
        heads={_text(one): _text(head) for one, head in pairs(heads)},
        nodes=nodes,
        counted={_text(one): _text(count) for one, count in pairs(refs)},
        dead={_text(raw) for raw in dead},
        unlisted=[_text(raw) for raw in unlisted],
        strays=[_text(raw) for raw in tops],
        logs=[_text(raw) for raw in logs],
        wanted={_text(one): int(count) for one, count in pairs(wanted)},
        totals=[_text(total) if isinstance(total, bytes) else str(total) for total in totals],
        misplaced=[_text(raw) for raw in tree[0]],
        phantoms=[_text(raw) for raw in tree[1]],
    )


async def check_lineage(walk: Walk, lineage: str, found: Lineage) -> list[Snapshot]:
    """Its live snapshots whose records can be read, for their objects to be looked at."""
    keys = LineageKeys(walk.prefix, lineage)
    structure = await gather_pins(walk, lineage, found)
    walk.report.lineages += 1
    walk.report.snapshots += len(structure.nodes)
    walk.gaps += structure.gaps
    live = _reached(structure, structure.heads.values())
    walk.live.update(structure.nodes[one].pin for one in live if structure.nodes[one].pin)
    if structure.heads and not found.listed:
        walk.found(
            "unlisted-lineage", lineage, "the store does not list the lineage", repairable=True
        )
    await _check_sessions(walk, keys, structure)
    await _check_leases(walk, lineage, keys, found)
    gaps = walk.gaps
    readable = await _check_snapshots(walk, keys, structure, live)
    _check_counts(walk, lineage, structure, whole=walk.gaps == gaps and structure.gaps == 0)
    _check_tree(walk, lineage, structure)
    return readable


async def gather_pins(walk: Walk, lineage: str, found: Lineage) -> Survey:
    """The lineage's structure; adds all its commits to `walk.pins`. Read in the order in which
    a pin passes from one to the next, so that none is missed on its way."""
    keys = LineageKeys(walk.prefix, lineage)
    await _check_journals(walk, lineage, keys.journals)
    structure = await survey(walk, lineage, found)
    walk.pins.update(node.pin for node in structure.nodes.values())
    await _check_journals(walk, lineage, keys.aborted)
    return structure


async def _check_journals(walk: Walk, lineage: str, key: str) -> None:
    async with walk.control.guard() as client:
        entries = await client.hgetall(key)
    for pin, record in entries.items():
        walk.pins.add(pin)
        try:
            read_journal(record)
        except CorruptObject:
            walk.found(
                "journal",
                f"{key} {pin.decode(errors='replace')}",
                "cannot be read; recovery leaves it alone",
                repairable=True,
                key=key,
                field=pin,
                value=record,
            )


def _reached(structure: Survey, heads: Iterable[str]) -> set[str]:
    waiting, reached = list(heads), set()
    while waiting:
        node = structure.nodes.get(waiting.pop())
        if node is not None and node.id not in reached:
            reached.add(node.id)
            waiting.append(node.parent)
    return reached


async def _check_sessions(walk: Walk, keys: LineageKeys, structure: Survey) -> None:
    for session_id in structure.unlisted:
        walk.found(
            "unlisted-session",
            session_id,
            "its lineage does not list it",
            repairable=True,
            lineage=keys.lineage,
        )
    for batch in batches(sorted(structure.heads), _RECORDS):
        async with walk.control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for session_id in batch:
                pipeline.hmget(keys.session(session_id), "body", "head", "labels")
            rows = await pipeline.execute()
        for session_id, (body, head, labels) in zip(batch, rows, strict=True):
            if structure.heads[session_id] == "?":
                if body is None and head is None:
                    message = "session record missing"
                else:
                    message = "its record lacks the head"
                walk.found("session-record", session_id, message, repairable=False)
            elif head is not None:  # else it was deleted meanwhile
                walk.report.sessions += 1
                _check_body(walk, session_id, body, labels)


def _check_body(walk: Walk, session_id: str, stored: bytes | None, labels: bytes | None) -> None:
    try:
        if labels is not None:
            walk.labels[session_id] = LabelSet.unpack(labels).labels
        body = SessionBody.unpack(stored or b"")
    except CorruptObject as error:
        walk.found("session-record", session_id, str(error), repairable=False)
        return
    if body.id != session_id:
        walk.found("session-record", session_id, f"its record is {body.id}'s", repairable=False)
        return
    walk.bodies[session_id] = body.model_copy(update={"meta": {}})


def _check_counts(walk: Walk, lineage: str, structure: Survey, *, whole: bool) -> None:
    _check_totals(walk, lineage, structure, whole=whole)
    for one in sorted(structure.wanted.keys() - structure.nodes.keys()):
        walk.found(
            "snapshot-record",
            one,
            "referenced but missing",
            repairable=False,
        )
    for one in structure.strays:
        walk.found(
            "stray-snapshot",
            LineageKeys(walk.prefix, lineage).snapshot(one),
            "reached by nobody",
            repairable=whole,
            lineage=lineage,
        )
    for one in structure.logs:
        walk.found(
            "stray-log",
            LineageKeys(walk.prefix, lineage).tokens(one),
            "a token log of no snapshot",
            repairable=whole,
            lineage=lineage,
        )
    for one in sorted({*structure.counted, *structure.wanted}):
        text, want = structure.counted.get(one, "0"), structure.wanted.get(one, 0)
        have = int(text) if re.fullmatch(r"-?\d{1,15}", text) else None
        if have != want and not (have == 1 and want == 0 and one in structure.strays):
            walk.found(
                "references",
                one,
                f"counts {text} references, has {want}",
                repairable=whole or have is None or have < want,
                lineage=lineage,
            )
        elif want and one in structure.dead and one in structure.nodes:
            walk.found(
                "references", one, "is being let go, yet referenced", repairable=True,
                lineage=lineage,
            )  # fmt: skip


def _check_totals(walk: Walk, lineage: str, structure: Survey, *, whole: bool) -> None:
    counted, wanted = structure.totals[:2], structure.totals[2:]
    if counted != wanted:
        too_few = any(
            not text.isdecimal() or int(text) < int(want)
            for text, want in zip(counted, wanted, strict=True)
        )
        walk.found(
            "totals",
            LineageKeys(walk.prefix, lineage).usage,
            "counts {} bytes and {} tokens, its snapshots have {} and {}".format(*structure.totals),
            repairable=whole or too_few,
            lineage=lineage,
        )


def _check_tree(walk: Walk, lineage: str, structure: Survey) -> None:
    for found, message in (
        (structure.misplaced, "the tree of its lineage lacks it, or has it before its parent"),
        (structure.phantoms, "the tree of its lineage lists it, and it is no more"),
    ):
        for one in sorted(found):
            walk.found("tree", one, message, repairable=True, lineage=lineage)


async def _check_leases(walk: Walk, lineage: str, keys: LineageKeys, found: Lineage) -> None:
    for batch in batches(sorted(one for one in found.leases if ":" not in one)):
        for session_id, state in zip(
            batch, await _look_at_leases(walk, keys, batch, mend=False), strict=True
        ):
            if state:
                walk.found(
                    "lease",
                    keys.lease(session_id),
                    state.decode(),
                    repairable=True,
                    lineage=lineage,
                    session=session_id,
                )


async def mend_leases(walk: Walk, lineage: str, sessions: Sequence[str]) -> None:
    await _look_at_leases(walk, LineageKeys(walk.prefix, lineage), sessions, mend=True)


async def _look_at_leases(
    walk: Walk, keys: LineageKeys, sessions: Sequence[str], *, mend: bool
) -> list[bytes]:
    calls: list[tuple[list[str], list[Any]]] = [
        ([keys.session(one), keys.lease(one), keys.fence], ["mend" if mend else "look"])
        for one in sessions
    ]
    return await walk.control.run_many("check_lease", calls)


async def _check_snapshots(
    walk: Walk, keys: LineageKeys, structure: Survey, live: set[str]
) -> list[Snapshot]:
    totals: dict[str, int] = {}
    bad_logs: list[Snapshot] = []
    readable: list[Snapshot] = []
    for batch in _by_log_size(structure, sorted(structure.nodes)):
        async with walk.control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for one in batch:
                pipeline.hmget(keys.snapshot(one), "body", "parent", "pin", "bytes", "count")
                pipeline.get(keys.tokens(one))
            replies = await pipeline.execute()
        for one, ((body, parent, pin, *counted), log) in zip(batch, pairs(replies), strict=True):
            if body is None and pin is None and parent is None:
                continue  # deleted since the survey
            snapshot = _unpacked(walk, one, body, tell=one in live)
            if snapshot is None:
                continue
            totals[one] = snapshot.total_tokens
            genuine = _is_genuine(snapshot, log or b"")
            wanted = _totals(snapshot, log or b"")
            if counted == [None, None]:  # it was committed before totals were counted
                counted = wanted
            _check_fields(walk, snapshot, parent, pin, counted, wanted, genuine=genuine)
            if one in live:
                readable.append(snapshot)
                if not genuine:
                    bad_logs.append(snapshot)
    for snapshot in await still_alive(walk, keys, bad_logs):
        before = 0 if snapshot.parent is None else totals.get(snapshot.parent)
        size = structure.nodes[snapshot.id].log_bytes
        if before is None or size == 4 * (snapshot.total_tokens - before):
            message = "record and token log are not what the snapshot was committed with"
        else:
            message = f"token log has {size} bytes"
        walk.found("token-log", snapshot.id, message, repairable=False)
    return readable


async def still_alive(
    walk: Walk, keys: LineageKeys, snapshots: Sequence[Snapshot]
) -> list[Snapshot]:
    """Those that nobody has begun to let go of: what is wrong with others passes by itself."""
    async with walk.control.guard() as client:
        pipeline = client.pipeline(transaction=False)
        for snapshot in snapshots:
            pipeline.exists(keys.snapshot(snapshot.id))
            pipeline.sismember(keys.dead, snapshot.id)
        replies = await pipeline.execute() if snapshots else []
    return [
        snapshot
        for snapshot, (exists, dead) in zip(snapshots, pairs(replies), strict=True)
        if exists and not dead
    ]


def _by_log_size(structure: Survey, ids: Sequence[str]) -> Iterable[list[str]]:
    batch: list[str] = []
    size = 0
    for one in ids:
        batch.append(one)
        size += structure.nodes[one].log_bytes
        if len(batch) == _RECORDS or size > _LOG_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _is_genuine(snapshot: Snapshot, log: bytes) -> bool:
    """Whether record and token log are what the snapshot's id was made of.

    The id of an encrypted one is keyed, and no key is at hand here: only whether its log has the
    size of a sealed one is known.
    """
    if snapshot.encrypted:
        return len(log) >= SEALED_BYTES and (len(log) - SEALED_BYTES) % 4 == 0
    try:
        return identity_of(snapshot, log, None) == snapshot.id
    except InvalidId:
        return False


def _unpacked(walk: Walk, one: str, body: bytes | None, *, tell: bool) -> Snapshot | None:
    try:
        snapshot = Snapshot.unpack(body or b"")
        if snapshot.id == one:
            return snapshot
        message = f"its record is {snapshot.id}'s"
    except CorruptObject as error:
        message = str(error)
    if tell:
        walk.found("snapshot-record", one, message, repairable=False)
    return None


def _totals(snapshot: Snapshot, log: bytes) -> list[bytes]:
    """Bytes and tokens of its own that a snapshot counts for quotas."""
    tokens = (len(log) - SEALED_BYTES * snapshot.encrypted) // 4
    return [b"%d" % snapshot.counted_bytes, b"%d" % tokens]


def _check_fields(
    walk: Walk,
    snapshot: Snapshot,
    parent: bytes | None,
    pin: bytes | None,
    counted: list[bytes | None],
    totals: list[bytes],
    *,
    genuine: bool,
) -> None:
    """counted: for quotas, totals: what that should be; genuine: what record and log say makes up
    the snapshot's id"""
    named = _text(parent) if parent is not None else None
    same_parent = named == (snapshot.parent or "")
    if pin is None or named is None:
        missing = "pin" if pin is None else "parent"
        message = f"its record lacks the {missing}"
    elif not same_parent:
        message = f"its record names two parents, {named or 'none'} and {snapshot.parent}"
    elif counted != totals and genuine:  # else its log is told of
        message = "it counts other bytes or tokens for quotas than it has"
    else:
        return
    if not same_parent and not genuine:
        walk.gaps += 1  # who its parent is cannot be told
    walk.found(
        "snapshot-field",
        snapshot.id,
        message,
        repairable=genuine or same_parent,
        lineage=lineage_of(snapshot.id),
        parent=snapshot.parent or "",
        totals=totals if genuine else counted,
    )


def _text(raw: bytes | str) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


__all__: Sequence[str] = (
    "Survey", "check_lineage", "discover", "gather_pins", "mend_leases", "still_alive", "survey",
)  # fmt: skip
