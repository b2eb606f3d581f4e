"""Committing a turn at the last boundary whose pages and state the store really holds."""

from __future__ import annotations

import asyncio
import functools
import logging
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from agent_runtime.messages.histories import History
from agent_runtime.messages.rewriting import Rewriting
from agent_runtime.turns.boundaries import interval_of, kept
from engine.errors import EngineUnreachable
from engine.pool import Engine
from engine.replies import Settled
from state_store.errors import ObjectsMissing
from state_store.forms import FormName
from state_store.records import Commit, Lease, Session, SnapshotDraft
from state_store.store import StateStore

logger = logging.getLogger(__name__)

_PAUSES = (0.01, 0.03, 0.1)  # seconds


async def commit_turn(
    store: StateStore,
    engine: Engine,
    session: Session,
    lease: Lease,
    history: History,
    new_ids: Sequence[int],
    hashes: Sequence[str],
    *,
    prompt_tokens: int,
    durability: str,
    settle_timeout: float,
    boundary_interval: int | None,
    marks: Sequence[int] = (),
    meta: Mapping[str, Any] | None = None,
    files: str | None = None,
    rewriting: Rewriting | None = None,
) -> tuple[Commit, str | None]:
    """Commit `new_ids` onto the session's head; the commit, and why its state fell short, if so.

    history: of the session's head, or of `rewriting`, which then takes the head's place in the same
    step. hashes: page chain of everything, `new_ids` included.
    prompt_tokens: of the history, where generation began. Of the states that the engine stored, the
    ones that `boundaries.kept` names are committed; the others expire.
    settle_timeout: seconds to wait for the engine to have stored the turn's state.
    boundary_interval: see `RuntimeSettings`. marks: token counts, see `marks.py`.
    meta: what the snapshot is to keep besides. files: that go with it, see `SnapshotDraft`.

    Token ids are the source of truth: a turn whose state did not reach the store is still
    committed, at the last boundary that did. What is past it is computed again on resume.
    Raises StoreUnavailable, LeaseLost, HeadMoved, NotFound, FilesMissing: then nothing was
    committed, or, after StoreUnavailable, perhaps.
    """
    record, form = engine.record, FormName.of(session.body)
    onto = None if rewriting is None else rewriting.draft
    shortfall = None
    for attempt in (_settled, _stored_again, None):
        if attempt is None and rewriting is not None:
            onto = rewriting.without
        base = (history.boundary if onto is None else onto.boundary) // record.page_size
        keep = functools.partial(
            kept,
            prompt_pages=prompt_tokens // record.page_size - base,
            interval_pages=interval_of(record, boundary_interval) // record.page_size,
            marks=[mark // record.page_size - base for mark in marks],
        )
        own = (len(history.tokens) + len(new_ids) - 1) // record.page_size - base
        states: tuple[int, ...] = ()
        try:
            if attempt is not None:
                settled = await attempt(engine, hashes, base, own, settle_timeout, form)
                states = keep(settled.states)
                why = settled.reason
                shortfall = None if why is None else f"state stored in part only: {why}"
                if why is None and not states and prompt_tokens // record.page_size > base:
                    shortfall = "the engine has stored no state of the turn, and gives no reason"
        except EngineUnreachable as error:
            # What it stored before it ended is as good as any; nothing more will come.
            shortfall = f"only what the engine had stored before it was gone is kept: {error}"
            stored = await store.stored_boundaries(record.fingerprint, record.ranks, hashes[base:])
            states = keep(stored)
        end = base + (states[-1] if states else 0)
        draft = SnapshotDraft(
            session_id=session.id,
            parent=session.head if onto is None else None,
            new_tokens=array("I", new_ids),
            total_tokens=len(history.tokens) + len(new_ids),
            boundary=end * record.page_size,
            boundary_hash=hashes[end - 1] if end else None,
            page_hashes=tuple(hashes[base:end]),
            fingerprint_id=record.fingerprint.id,
            ranks=record.ranks,
            checkpoints=states[:-1],
            meta={**(meta or {}), "prompt_tokens": prompt_tokens, "boot_id": record.boot_id},
            economy=session.body.economy,
            files=files,
            onto=onto,
        )
        try:
            return await store.commit(draft, lease=lease, durability=durability), shortfall
        except ObjectsMissing as error:
            shortfall = f"state not stored: {error}"
            logger.warning("%s: %s", session.id, shortfall)
            if rewriting is not None and rewriting.lacks({page for _, page, _ in error.missing}):
                onto = rewriting.without
    raise AssertionError("a commit without pages has no objects that could be missing")


async def _settled(
    engine: Engine,
    hashes: Sequence[str],
    base: int,
    own_pages: int,
    timeout: float,
    form: FormName | None,
) -> Settled:
    """What the engine has stored of the turn, which has `own_pages` whole pages after `base`.

    An answer's last token may be here before the engine has begun to store the state at its end:
    without that one it is asked again, a few times.
    """
    for pause in _PAUSES:
        settled = await engine.settle(hashes[base:], timeout=timeout, form=form)
        if own_pages < 1 or own_pages in settled.states or settled.reason is not None:
            return settled
        await asyncio.sleep(pause)
    return await _stored_again(engine, hashes, base, own_pages, timeout, form)


async def _stored_again(
    engine: Engine,
    hashes: Sequence[str],
    base: int,
    own_pages: int,
    timeout: float,
    form: FormName | None,
) -> Settled:
    """What the engine has stored of it once it was told what has expired, and has stored that
    again: of pages that the device shares with a session that was deleted."""
    await engine.renew(hashes[base:], timeout=timeout, form=form)
    # A chain is found on the device from its root.
    await engine.persist(hashes, timeout=timeout, form=form)
    return await engine.settle(hashes[base:], timeout=timeout, form=form)
