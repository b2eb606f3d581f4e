"""Committing a turn at the last boundary whose pages and state the store really holds."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence

from agent_runtime.histories import History
from engine.errors import EngineUnreachable
from engine.pool import Engine
from state_store.errors import ObjectsMissing
from state_store.records import Commit, Lease, Session, SnapshotDraft
from state_store.store import StateStore

logger = logging.getLogger(__name__)


async def commit_turn(
    store: StateStore,
    engine: Engine,
    session: Session,
    lease: Lease,
    history: History,
    new_ids: Sequence[int],
    hashes: Sequence[str],
    *,
    durability: str,
    settle_timeout: float,
) -> tuple[Commit, str | None]:
    """Commit `new_ids` onto the session's head; the commit, and why its state fell short, if so.

    history: of the session's head; hashes: page chain of everything, `new_ids` included.
    settle_timeout: seconds to wait for the engine to have stored the turn's state.

    Token ids are the source of truth: a turn whose state did not reach the store is still
    committed, at its parent's boundary. What is past the boundary is computed again on resume.
    Raises StoreUnavailable, LeaseLost, HeadMoved, NotFound: then nothing was committed, or, after
    StoreUnavailable, perhaps.
    """
    record = engine.record
    base = history.boundary // record.page_size
    stored, shortfall = 0, None
    try:
        settled = await engine.settle(hashes[base:], timeout=settle_timeout)
        stored = settled.pages
        if settled.reason is not None:
            shortfall = f"state stored in part only: {settled.reason}"
    except EngineUnreachable as error:
        shortfall = f"state not stored: {error}"
    for pages in (stored, 0):
        end = base + pages
        draft = SnapshotDraft(
            session_id=session.id,
            parent=session.head,
            new_tokens=array("I", new_ids),
            total_tokens=len(history.tokens) + len(new_ids),
            boundary=end * record.page_size,
            boundary_hash=hashes[end - 1] if end else None,
            page_hashes=tuple(hashes[base:end]),
            fingerprint_id=record.fingerprint.id,
            ranks=record.ranks,
        )
        try:
            return await store.commit(draft, lease=lease, durability=durability), shortfall
        except ObjectsMissing as error:
            shortfall = f"state not stored: {error}"
            logger.error("%s: %s", session.id, shortfall)
    raise AssertionError("a commit without pages has no objects that could be missing")
