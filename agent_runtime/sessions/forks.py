"""Forking at any number of tokens, also inside a turn.

A fork between two turns is a reference to the snapshot there. One inside a turn gets a snapshot of
its own: the first part of that turn's tokens, and the pages up to the latest state kept there.

    turn's tokens   |--------------------------------|
    states kept           s           s     s        s
    fork                              |..n              the dots are computed again
"""

from __future__ import annotations

from collections.abc import Mapping

from agent_runtime.errors import BadRequest, FilesNotKept, StillRunning
from agent_runtime.messages import points
from agent_runtime.messages.transcripts import part_of
from agent_runtime.turns.turns import Turns
from state_store.errors import HeadMoved, LeaseHeld, LeaseLost, ObjectsMissing
from state_store.records import Lease, Session, Snapshot, SnapshotDraft
from state_store.store import StateStore


async def fork_at(
    store: StateStore,
    turns: Turns,
    session: Session,
    tokens: int,
    *,
    labels: Mapping[str, str],
    fork_id: str,
) -> Session:
    """A session whose history is the first `tokens` tokens of this one's. One that has the id
    `fork_id` already is made whole, if it is not.

    Raises BadRequest when it has fewer, FilesNotKept when it had files there that are let go;
    NotFound, VaultLocked. Then nothing was made. StillRunning while another request makes it.
    """
    place = await store.place(session.id, tokens)
    before, whole = place.before, place.within
    known = before.total_tokens if before else 0
    if whole is None and tokens > known:
        raise BadRequest(f"{session.id} has {known} tokens; a fork cannot keep {tokens} of them.")
    if whole is None or tokens == known:
        return await store.branch_at(session.id, tokens=tokens, labels=labels, fork_id=fork_id)
    _require_files(whole, before)
    async with turns.unfinished.making(fork_id, before.id if before else None):
        fork = await store.branch_at(session.id, tokens=tokens, labels=labels, fork_id=fork_id)
        return await _made_whole(store, turns, fork, whole, before, tokens)


async def _made_whole(
    store: StateStore,
    turns: Turns,
    fork: Session,
    whole: Snapshot,
    before: Snapshot | None,
    tokens: int,
) -> Session:
    if _is_whole(fork) or await _tokens_of(store, fork) == tokens:
        return fork
    try:
        async with turns.writing(fork.id) as (fork, lease):
            if _is_whole(fork):  # another request with the same key was faster
                return fork
            try:
                await _commit_part(store, lease, whole, before, tokens)
            except (LeaseLost, HeadMoved):  # it may be somebody else's by now
                raise
            except BaseException:
                # Nobody has anything in it: whoever commits to it needs the lease.
                await store.delete_session(fork.id)
                raise
    except LeaseHeld as error:
        fork = await store.session(fork.id)
        if _is_whole(fork):
            return fork
        raise StillRunning(
            f"{fork.id} is being made, as far as can be told by the first request with this key. "
            "Ask again in a moment."
        ) from error
    return await store.session(fork.id)


def _is_whole(fork: Session) -> bool:
    """Whether it got a snapshot of its own; somebody may have gone on from there."""
    return fork.head != fork.body.forked_at


async def _tokens_of(store: StateStore, session: Session) -> int:
    return 0 if session.head is None else (await store.snapshot(session.head)).total_tokens


def _require_files(whole: Snapshot, before: Snapshot | None) -> None:
    """Raises FilesNotKept for a snapshot of several turns, which had not all the same files: it
    holds those of the last only, and a fork with other files than its messages speak of would be a
    wrong continuation."""
    replaced = points.replaced_in(whole)
    files = {before.files if before else None, whole.files, *(one.files for one in replaced)}
    if replaced and len(files) > 1:
        start, end = before.total_tokens if before else 0, whole.total_tokens
        raise FilesNotKept(
            f"tokens {start} to {end} of {whole.session_id} are {len(replaced)} turns that were "
            "rendered anew as one snapshot, and their tools changed its files: those in between "
            f"are not kept. Nothing was made. Fork at {start} tokens, with the files before these "
            f"turns, or at {end}, with those after them.",
            between=(start, end),
        )


async def _commit_part(
    store: StateStore, lease: Lease, whole: Snapshot, before: Snapshot | None, tokens: int
) -> None:
    """Commit the tokens of `whole`'s turn up to `tokens` onto `before`, the fork's head."""
    page_size = (await store.fingerprint(whole.fingerprint_id)).page_size
    (log,) = await store.new_tokens([whole])
    known = before.total_tokens if before else 0
    pages = whole.page_chain
    base = whole.boundary // page_size - len(pages)  # own pages may start before the parent's end
    counts = [
        boundary // page_size - base
        for boundary in whole.boundaries(page_size)
        if boundary <= tokens
    ]
    for kept in (counts, []):
        end = kept[-1] if kept else 0
        inherited = before.boundary_hash if before and base else None
        draft = SnapshotDraft(
            session_id=lease.session_id,
            parent=before.id if before else None,
            new_tokens=log[: tokens - known],
            total_tokens=tokens,
            boundary=(base + end) * page_size,
            boundary_hash=pages[end - 1] if end else inherited,
            page_hashes=tuple(pages[:end]),
            fingerprint_id=whole.fingerprint_id,
            ranks=whole.ranks,
            checkpoints=tuple(kept[:-1]),
            # Which calls come before so many tokens is not known: none is made a second time.
            meta=part_of(whole, tokens) | points.meta_of(points.replaced_in(whole)),
            economy=whole.economy,
            files=whole.files if tokens >= whole.meta.get("prompt_tokens", 0) else None,
        )
        try:
            await store.commit(draft, lease=lease, durability="memory")
            return
        except ObjectsMissing:  # the state is lost: the fork says so by its boundary
            if not kept:
                raise
