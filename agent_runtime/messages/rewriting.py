"""A history that the template shows differently now: what of it stays, and committing the rest.

    before   ── a ── b: prompt│thinking, answer ── c: result│answer
    after    ── a ── b': prompt│answer, result, answer ── d: the new turn
                        └ kept: from the nearest state before here on everything is computed anew

The turns from the first changed token on become one snapshot, b', which takes their place with the
new turn, in the one step that commits that: the head is b, or it is d. What of it is in the state
already is not stored again. Snapshots that only this session reached are let go; forks keep theirs.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agent_runtime.messages import points
from agent_runtime.messages.histories import History
from agent_runtime.messages.transcripts import goes_on, meta_of, said_in
from agent_runtime.wire.messages import Message
from state_store.fingerprint import Fingerprint
from state_store.records import Session, Snapshot, SnapshotDraft
from state_store.store import StateStore


@dataclass(frozen=True)
class Rewriting:
    """draft:  of the snapshot that takes the head's place, and that the turn goes on from
    without: the same without any state of its own, should that be lost
    kept:    tokens of the old history in front of the first that is another
    tokens:  that come after them
    """

    draft: SnapshotDraft
    without: SnapshotDraft
    kept: int
    tokens: int

    def lacks(self, page_hashes: Collection[str]) -> bool:
        """Whether any of the objects that are missing, of these pages, is of the draft."""
        return not set(self.draft.page_hashes).isdisjoint(page_hashes)


async def rewriting_of(
    store: StateStore,
    session: Session,
    history: History,
    *,
    fingerprint: Fingerprint,
    kept: int,
    past: Sequence[int],
    unsaved: Sequence[Message],
) -> Rewriting:
    """Of the session's head, whose history is `history`: `past` after the first `kept` tokens.

    fingerprint: of the engine that goes on; state of another is of no use to it
    unsaved: its last messages, if its snapshot does not have them

    Reads what comes after the kept tokens, however many there are. Raises NoMessages, NotFound.
    """
    snapshots = await store.ancestors(session.head or "", beyond=kept)
    parent = await _parent(store, snapshots[0])
    while parent is not None and goes_on(snapshots[0]):
        snapshots.insert(0, parent)  # to where the answer began: its beginning is not said twice
        parent = await _parent(store, parent)
    changed = snapshots[0]
    said = [*said_in(session, snapshots), *unsaved]
    known = parent.total_tokens if parent else 0
    page_size = fingerprint.page_size
    pages: Sequence[str] = ()
    counts: list[int] = []
    base = 0
    if parent is not None and parent.fingerprint_id == fingerprint.id:
        base = parent.boundary // page_size
    if changed.fingerprint_id == fingerprint.id:
        pages = changed.page_chain
        base = changed.boundary // page_size - len(pages)
        counts = [
            boundary // page_size - base
            for boundary in changed.boundaries(page_size)
            if boundary < kept  # where pages are over token pairs, one more token names the last
        ]

    replaced = points.meta_of(points.points_of(snapshots))

    def draft(counts: Sequence[int]) -> SnapshotDraft:
        end = counts[-1] if counts else 0
        inherited = parent.boundary_hash if parent and base else None
        return SnapshotDraft(
            session_id=session.id,
            parent=parent.id if parent else None,
            new_tokens=history.tokens[known:kept] + array("I", past),
            total_tokens=kept + len(past),
            boundary=(base + end) * page_size,
            boundary_hash=pages[end - 1] if end else inherited,
            page_hashes=tuple(pages[:end]),
            fingerprint_id=fingerprint.id,
            ranks=fingerprint.tp_size,
            checkpoints=tuple(counts[:-1]),
            meta=meta_of(said[:-1], said[-1]) | replaced,
            economy=session.body.economy,
            files=snapshots[-1].files,
            replaces=session.head,
        )

    return Rewriting(draft(counts), draft([]), kept, len(past))


async def _parent(store: StateStore, snapshot: Snapshot) -> Snapshot | None:
    return None if snapshot.parent is None else await store.snapshot(snapshot.parent)
