"""Committing a snapshot: pin what it names, then move the head, atomically.

    journal ──> pin every object ──> commit script ──> confirm durability
       │              │                   │
       │              └ one is missing    └ lease lost, head moved
       └──────────────── abort: unpin, forget the journal

The journal is written first, so that a crash at any point leaves a record of what was pinned;
`garbage.recover` finishes what the crash interrupted. Pins belong to the commit, not to the
snapshot: two commits of equal snapshots never take each other's pins away.

A server that is replaced, or restarts, in the middle may lose what it had acknowledged, and the
rest of the commit goes to its successor. So who the servers are is asked before and after, and a
commit that another server saw the end of is checked and pinned once more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from state_store import garbage
from state_store.connection import Control
from state_store.drafts import check_draft, token_log
from state_store.durability import confirm, parse_level, servers
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
from state_store.layout import LineageKeys, ObjectRef
from state_store.lineages import Lineage, Lineages, Seals
from state_store.records import Commit, Lease, Snapshot, SnapshotDraft
from state_store.snapshots import identity_of

_BATCH = 512


async def commit(
    control: Control,
    prefix: str,
    lineages: Lineages,
    draft: SnapshotDraft,
    fingerprint: Fingerprint,
    lease: Lease,
    durability: str,
    *,
    file_bytes: int = 0,
) -> Commit:
    """See `StateStore.commit`. fingerprint: the one that the draft names; file_bytes: see
    `Files.of_draft`."""
    parse_level(durability)
    before = await servers(control)
    if lease.session_id != draft.session_id:
        raise LeaseLost(f"a lease on {lease.session_id} is none on {draft.session_id}.")
    lineage = await lineages.of_session(draft.session_id)
    if draft.economy != lineage.economy:
        raise InvalidDraft(
            f"{draft.session_id} is of economy class {lineage.economy}, the draft of "
            f"{draft.economy}; one history has one class. Nothing was committed."
        )
    seals = await lineages.seals(lineage)
    keys = LineageKeys(prefix, lineage.id)
    tokens = token_log(draft)
    check_draft(draft, fingerprint, await _parent(control, keys, draft))
    made = _snapshot(draft, fingerprint, lineage, tokens, seals, file_bytes)
    snapshot = lineages.sealed(made, seals)
    if seals is not None:
        tokens = seals.seal(tokens, keys.tokens(snapshot.id))
    pin_id = garbage.new_pin_id()
    await garbage.write_journal(control, keys, pin_id, snapshot)
    try:
        missing = await _pin(control, prefix, snapshot, pin_id)
        if missing:
            raise ObjectsMissing(
                f"{len(missing)} of {len(snapshot.objects)} objects are not in the store "
                f"(first: {missing[0].kind} {missing[0].tag}); the head is unchanged.",
                missing,
            )
        outcome, detail, *stored = await control.run(
            "commit",
            [
                keys.session(draft.session_id),
                keys.lease(draft.session_id),
                keys.snapshot(snapshot.id),
                keys.tokens(snapshot.id),
                keys.refs,
                keys.dead,
                keys.journals,
                keys.aborted,
                keys.usage,
                keys.held_files,
            ],
            lease.token,
            draft.parent or "",
            snapshot.id,
            pin_id,
            snapshot.pack(),
            tokens,
            snapshot.counted_bytes,
            len(draft.new_tokens),
            draft.expected_head or "",
            keys.snapshot_prefix,
            snapshot.total_tokens,
            snapshot.files or "",
            keys.files(""),
            keys.blob(""),
        )
        _raise_unless_ok(outcome.decode(), detail.decode(), draft)
        kept_by = detail.decode()
        if kept_by != pin_id:  # an equal snapshot was there: its pins hold the objects
            await garbage.abort(control, prefix, keys, pin_id, snapshot)
            snapshot = Snapshot.unpack(stored[0])
        if superseded := stored[1].decode():
            await garbage.abort(control, prefix, keys, superseded)
    except StoreUnavailable:
        raise  # whether it was committed is unknown: recovery decides by the journal
    except Exception:
        await garbage.abort(control, prefix, keys, pin_id, snapshot)
        raise
    try:
        if draft.replaces is not None:
            await garbage.unwind(control, prefix, lineage.id)
        reached = await confirm(control, prefix, durability, since=before)
        return Commit(await lineages.opened(snapshot), reached)
    except ServersChanged as error:
        await _check(control, prefix, keys, draft.session_id, snapshot, kept_by)
        shortfall = None if durability == "memory" else str(error)
        return Commit(await lineages.opened(snapshot), "memory", shortfall)
    except DurabilityNotReached as error:
        return Commit(await lineages.opened(snapshot), error.reached, str(error))
    except StoreUnavailable as error:
        return Commit(await lineages.opened(snapshot), "memory", str(error))


async def _parent(control: Control, keys: LineageKeys, draft: SnapshotDraft) -> Snapshot | None:
    if draft.parent is None:
        return None
    async with control.guard() as client:
        pipeline = client.pipeline(transaction=False)
        pipeline.hget(keys.session(draft.session_id), "head")
        pipeline.hget(keys.snapshot(draft.parent), "body")
        head, stored = await pipeline.execute()
    if stored is not None:
        return Snapshot.unpack(stored)
    _raise_unless_ok("no_session" if head is None else "head_moved", (head or b"").decode(), draft)
    return None


def _snapshot(
    draft: SnapshotDraft,
    fingerprint: Fingerprint,
    lineage: Lineage,
    tokens: bytes,
    seals: Seals | None,
    file_bytes: int,
) -> Snapshot:
    snapshot = Snapshot(
        id="",
        parent=draft.parent,
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


async def _pin(
    control: Control, prefix: str, snapshot: Snapshot, pin_id: str
) -> Sequence[ObjectRef]:
    """Pin all objects of the snapshot; the ones that are missing on some rank."""
    missing: list[ObjectRef] = []
    objects = snapshot.objects
    for start in range(0, len(objects), _BATCH):
        batch = objects[start : start + _BATCH]
        encrypted = int(snapshot.encrypted)
        calls = [(garbage.keys_to_pin(prefix, snapshot, ref), [pin_id, encrypted]) for ref in batch]
        pinned = await control.run_many("pin", calls)
        missing += [ref for ref, done in zip(batch, pinned, strict=True) if not done]
    return missing


async def _check(
    control: Control,
    prefix: str,
    keys: LineageKeys,
    session_id: str,
    snapshot: Snapshot,
    pin_id: str,
) -> None:
    """Raises StoreUnavailable unless the commit is whole, as it was made."""
    missing = await _pin(control, prefix, snapshot, pin_id)
    async with control.guard() as client:
        kept_by = await client.hget(keys.snapshot(snapshot.id), "pin")
        head = await client.hget(keys.session(session_id), "head")
        files = snapshot.files is None or await client.exists(keys.files(snapshot.files))
    if kept_by is None:
        await garbage.abort(control, prefix, keys, pin_id, snapshot)
    if missing or not files or head != snapshot.id.encode():
        parts = f"{len(missing)} of its objects" if missing else "its files"
        lost = parts if head == snapshot.id.encode() else "it"
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
