"""Committing a snapshot, or several that go on from one another: pin what they name, then move the
head, atomically.

    look ──> journal ──> pin every object ──> commit script ──> confirm durability
                │              │                   │
                │              └ one is missing    └ lease lost, head moved
                └──────────────── abort: unpin, forget the journal

The journal is written first, so that a crash at any point leaves a record of what was pinned;
`garbage.recover` finishes what the crash interrupted. Each snapshot has a journal and pins of its
own. Pins belong to the commit, not to the snapshot: two commits of equal snapshots never take each
other's pins away.

A server that is replaced, or restarts, in the middle may lose what it had acknowledged, and the
rest of the commit goes to its successor. So who the servers are is asked before and after, and a
commit that another server saw the end of is checked and pinned once more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from state_store import garbage
from state_store.connection import Command, Control, Script
from state_store.drafts import check_draft, token_log
from state_store.durability import Servers, confirm, with_servers
from state_store.errors import (
    DurabilityNotReached,
    FilesMissing,
    HeadMoved,
    InvalidDraft,
    LeaseLost,
    NotFound,
    ObjectsMissing,
    ServersChanged,
    StoreUnavailable,
)
from state_store.fingerprint import Fingerprint
from state_store.layout import LineageKeys, ObjectRef, lineage_of
from state_store.levels import parse_level
from state_store.lineages import Lineage, Lineages, Seals
from state_store.records import Commit, Lease, Snapshot, SnapshotDraft
from state_store.snapshots import identity_of

_BATCH = 512


@dataclass(frozen=True)
class Before:
    """What is there when a commit begins.

    head:    of the session, b"" if it is empty, None without a session
    parent:  the record of the snapshot that the first draft of the chain goes on from; None if it
             is not there, or if there is none
    files:   of that snapshot
    servers: who hold the data
    """

    head: bytes | None
    parent: Snapshot | None
    files: str | None
    servers: Servers


@dataclass(frozen=True)
class _Step:
    """One snapshot of a commit. log: its new tokens as they are stored"""

    snapshot: Snapshot
    log: bytes
    pin_id: str


async def look(
    control: Control, prefix: str, draft: SnapshotDraft, *, beside: Sequence[Command] = ()
) -> Before:
    """What `commit` needs to know. beside: more that is done in the same round trip"""
    keys = LineageKeys(prefix, lineage_of(draft.session_id))
    parent = keys.snapshot(draft.chain[0].parent or "")
    reads = [("HGET", keys.session(draft.session_id), "head"), ("HMGET", parent, "body", "files")]
    replies, held_by = await with_servers(control, [*beside, *reads])
    head, (body, files) = replies[-2:]
    snapshot = None if body is None else Snapshot.unpack(body)
    return Before(head, snapshot, (files or b"").decode(errors="replace") or None, held_by)


async def commit(
    control: Control,
    prefix: str,
    lineages: Lineages,
    draft: SnapshotDraft,
    fingerprints: Sequence[Fingerprint],
    lease: Lease,
    durability: str,
    *,
    before: Before,
    file_bytes: Sequence[int],
) -> Commit:
    """See `StateStore.commit`. fingerprints: the ones that the drafts of the chain name; and
    file_bytes: see `Files.of_draft`."""
    parse_level(durability)
    if lease.session_id != draft.session_id:
        raise LeaseLost(f"a lease on {lease.session_id} is none on {draft.session_id}.")
    keys = LineageKeys(prefix, lineage_of(draft.session_id))
    steps = await _steps(keys, lineages, draft, fingerprints, before, file_bytes)
    for step in steps:
        await garbage.write_journal(control, keys, step.pin_id, step.snapshot)
    try:
        await _pin_all(control, prefix, steps)
        (done,), held_by = await with_servers(control, [_script(keys, draft, steps, lease)])
        outcome, detail, *made = done
        _raise_unless_ok(outcome.decode(), detail.decode(), draft.chain[0])
        kept = []
        for step, (kept_by, stored, superseded) in zip(steps, made, strict=True):
            if kept_by.decode() != step.pin_id:  # an equal snapshot was there: its pins hold
                await garbage.abort(control, prefix, keys, step.pin_id, step.snapshot)
                step = _Step(Snapshot.unpack(stored), step.log, kept_by.decode())
            if superseded:
                await garbage.abort(control, prefix, keys, superseded.decode())
            kept.append(step)
    except StoreUnavailable:
        raise  # whether it was committed is unknown: recovery decides by the journal
    except Exception:
        for step in steps:
            await garbage.abort(control, prefix, keys, step.pin_id, step.snapshot)
        raise
    snapshot = kept[-1].snapshot
    try:
        if draft.chain[0].replaces is not None:
            await garbage.unwind(control, prefix, keys.lineage)
        reached = await confirm(control, prefix, durability, since=before.servers, now=held_by)
        return Commit(await lineages.opened(snapshot), reached)
    except ServersChanged as error:
        await _check(control, prefix, keys, draft.session_id, kept)
        shortfall = None if durability == "memory" else str(error)
        return Commit(await lineages.opened(snapshot), "memory", shortfall)
    except DurabilityNotReached as error:
        return Commit(await lineages.opened(snapshot), error.reached, str(error))
    except StoreUnavailable as error:
        return Commit(await lineages.opened(snapshot), "memory", str(error))


async def identify(
    lineages: Lineages,
    draft: SnapshotDraft,
    fingerprints: Sequence[Fingerprint],
    *,
    before: Before,
) -> list[str]:
    """Ids of the snapshots that the drafts of the chain make, whether they are committed or not.
    fingerprints: the ones that they name. Raises as `commit` does before it writes."""
    keys = LineageKeys("", lineage_of(draft.session_id))  # names nothing that is kept
    sizes = [0] * len(draft.chain)  # no part of an id
    steps = await _steps(keys, lineages, draft, fingerprints, before, sizes)
    return [step.snapshot.id for step in steps]


async def _steps(
    keys: LineageKeys,
    lineages: Lineages,
    draft: SnapshotDraft,
    fingerprints: Sequence[Fingerprint],
    before: Before,
    file_bytes: Sequence[int],
) -> list[_Step]:
    lineage = await lineages.of_session(draft.session_id)
    seals = await lineages.seals(lineage)
    parent = _parent(draft.chain[0], before)
    steps = []
    for one, fingerprint, size in zip(draft.chain, fingerprints, file_bytes, strict=True):
        if one.economy != lineage.economy:
            raise InvalidDraft(
                f"{one.session_id} is of economy class {lineage.economy}, the draft of "
                f"{one.economy}; one history has one class. Nothing was committed."
            )
        log = token_log(one)
        check_draft(one, fingerprint, parent)
        above = None if parent is None else parent.id
        made = _snapshot(one, above, fingerprint, lineage, log, seals, size)
        parent = lineages.sealed(made, seals)
        if seals is not None:
            log = seals.seal(log, keys.tokens(parent.id))
        steps.append(_Step(parent, log, garbage.new_pin_id()))
    return steps


def _parent(draft: SnapshotDraft, before: Before) -> Snapshot | None:
    if draft.parent is None or before.parent is not None:
        return before.parent
    outcome = "no_session" if before.head is None else "head_moved"
    _raise_unless_ok(outcome, (before.head or b"").decode(), draft)
    return None


def _snapshot(
    draft: SnapshotDraft,
    parent: str | None,
    fingerprint: Fingerprint,
    lineage: Lineage,
    tokens: bytes,
    seals: Seals | None,
    file_bytes: int,
) -> Snapshot:
    snapshot = Snapshot(
        id="",
        parent=parent,
        session_id=draft.session_id,
        total_tokens=draft.total_tokens,
        boundary=draft.boundary,
        boundary_hash=draft.boundary_hash,
        page_hashes=b"".join(map(bytes.fromhex, draft.page_hashes)),
        checkpoints=draft.checkpoints,
        fingerprint_id=draft.fingerprint_id,
        ranks=draft.ranks,
        kv_bytes=fingerprint.kv_payload_bytes,
        state_bytes=fingerprint.state_payload_bytes,
        tenant=lineage.tenant,
        tenant_id=lineage.tenant_id,
        economy=lineage.economy,
        encrypted=lineage.encrypted,
        meta=draft.meta,
        created_at=time.time(),
        files=draft.files,
        file_bytes=file_bytes,
    )
    return snapshot.model_copy(update={"id": identity_of(snapshot, tokens, seals)})


async def _pin_all(control: Control, prefix: str, steps: Sequence[_Step]) -> None:
    """Raises ObjectsMissing."""
    missing: list[ObjectRef] = []
    for step in steps:
        missing += await _pin(control, prefix, step)
    if missing:
        named = sum(len(step.snapshot.objects) for step in steps)
        raise ObjectsMissing(
            f"{len(missing)} of {named} objects are not in the store "
            f"(first: {missing[0].kind} {missing[0].tag}); the head is unchanged.",
            missing,
        )


async def _pin(control: Control, prefix: str, step: _Step) -> Sequence[ObjectRef]:
    """Pin all objects of the snapshot; the ones that are missing on some rank."""
    missing: list[ObjectRef] = []
    snapshot, pin_id = step.snapshot, step.pin_id
    objects = snapshot.objects
    for start in range(0, len(objects), _BATCH):
        batch = objects[start : start + _BATCH]
        encrypted = int(snapshot.encrypted)
        calls = [(garbage.keys_to_pin(prefix, snapshot, ref), [pin_id, encrypted]) for ref in batch]
        pinned = await control.run_many("pin", calls)
        missing += [ref for ref, done in zip(batch, pinned, strict=True) if not done]
    return missing


def _script(
    keys: LineageKeys, draft: SnapshotDraft, steps: Sequence[_Step], lease: Lease
) -> Script:
    session = [keys.session(draft.session_id), keys.lease(draft.session_id)]
    taken = [*session, keys.refs, keys.dead, keys.journals, keys.aborted, keys.usage]
    taken += [keys.held_files, keys.cold_files, keys.tree]
    first = draft.chain[0].parent or ""
    values: list[str | bytes | int] = [lease.token, draft.expected_head or ""]
    values += [keys.snapshot_prefix, keys.files(""), keys.blob(""), first]
    for one, step in zip(draft.chain, steps, strict=True):
        snapshot = step.snapshot
        taken += [keys.snapshot(snapshot.id), keys.tokens(snapshot.id)]
        values += [snapshot.id, step.pin_id, snapshot.pack(), step.log, snapshot.counted_bytes]
        values += [len(one.new_tokens), snapshot.total_tokens, snapshot.files or ""]
    return Script("commit", taken, values)


async def _check(
    control: Control,
    prefix: str,
    keys: LineageKeys,
    session_id: str,
    steps: Sequence[_Step],
) -> None:
    """Raises StoreUnavailable unless the commit is whole, as it was made."""
    missing: list[ObjectRef] = []
    for step in steps:
        missing += await _pin(control, prefix, step)
        async with control.guard() as client:
            kept_by = await client.hget(keys.snapshot(step.snapshot.id), "pin")
        if kept_by is None:
            await garbage.abort(control, prefix, keys, step.pin_id, step.snapshot)
    async with control.guard() as client:
        head = await client.hget(keys.session(session_id), "head")
        files = [
            step.snapshot.files is None or await client.exists(keys.files(step.snapshot.files))
            for step in steps
        ]
    made = head == steps[-1].snapshot.id.encode()
    if missing or not all(files) or not made:
        parts = f"{len(missing)} of its objects" if missing else "its files"
        lost = parts if made else "it"
        raise StoreUnavailable(
            f"a server was replaced or restarted during the commit to {session_id}, and {lost} "
            "was lost; read the head again."
        )


def _raise_unless_ok(outcome: str, detail: str, draft: SnapshotDraft) -> None:
    if outcome == "ok":
        return
    if outcome == "no_session":
        raise NotFound(f"no session {draft.session_id}; the turn is not committed.")
    if outcome == "head_moved":
        raise HeadMoved(
            f"head of {draft.session_id} is {detail or 'empty'}, not "
            f"{draft.expected_head or 'empty'}; nothing was committed."
        )
    if outcome == "no_files":
        raise FilesMissing(
            f"the files that go with a turn of {draft.session_id} are not all in the store, or "
            "have expired; nothing was committed. Keep them again, and then repeat the turn."
        )
    if outcome == "unrelated":
        raise InvalidDraft(
            f"{draft.replaces} does not descend from {draft.parent or 'the beginning'}, so nothing "
            f"on that can take its place; the head of {draft.session_id} is unchanged."
        )
    if outcome == "too_late":
        raise LeaseLost(
            f"the commit to {draft.session_id} took so long that recovery abandoned it; "
            "nothing was committed."
        )
    raise LeaseLost(
        f"the lease on {draft.session_id} expired or was taken over "
        f"({detail or 'nobody holds it now'}); nothing was committed."
    )
