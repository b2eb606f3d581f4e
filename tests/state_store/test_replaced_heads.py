"""A commit that takes the head's place: it goes on from further back in the session's history."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from writer import PAGE, Writer, commit

from state_store.errors import HeadMoved, InvalidDraft, NotFound
from state_store.identity import page_hashes

TURNS = ([1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12])  # 1, 2 and 3 pages, a state each


async def instead_of(writer: Writer, session, kept: int, tokens):
    """A draft of `tokens` after the first `kept` turns, to be committed in the head's place."""
    history = await writer.store.ancestors(session.head)
    parent = history[kept - 1] if kept else None
    before = await writer.store.tokens(parent.id) if parent else array("I")
    whole = before + array("I", tokens)
    salt = (await writer.store.tenant(session.body.tenant)).salt
    hashes = page_hashes(whole, PAGE, salt=salt, bigram=False)
    base = parent.boundary // PAGE if parent else 0
    return replace(
        await writer.draft(session.id, []),
        parent=parent.id if parent else None,
        new_tokens=array("I", tokens),
        total_tokens=len(whole),
        boundary=len(hashes) * PAGE,
        boundary_hash=hashes[-1] if hashes else None,
        page_hashes=tuple(hashes[base:]),
        replaces=session.head,
    )


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
async def test_the_new_head_goes_on_from_where_it_says_and_the_old_one_is_let_go(writer, kept):
    session = await writer.session(*TURNS)
    gone = (await writer.store.ancestors(session.head))[kept:]
    draft = await instead_of(writer, session, kept, [20] * 6)
    writer.put(draft)
    done = await commit(writer.store, draft)
    assert (await writer.store.session(session.id)).head == done.snapshot.id
    kept_tokens = [token for turn in TURNS[:kept] for token in turn]
    assert await writer.history(session.id) == [*kept_tokens, *[20] * 6]
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.problems) == (kept + 1, [])
    for snapshot in gone:
        with pytest.raises(NotFound):
            await writer.store.snapshot(snapshot.id)


async def test_a_fork_keeps_what_its_origin_has_replaced(writer):
    session = await writer.session(*TURNS)
    fork = await writer.store.fork(session.id)
    draft = await instead_of(writer, session, 1, [20] * 6)
    writer.put(draft)
    await commit(writer.store, draft)
    assert await writer.history(fork.id) == [token for turn in TURNS for token in turn]
    assert await writer.history(session.id) == [*TURNS[0], *[20] * 6]
    await writer.store.delete_session(fork.id)
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.problems) == (2, [])


async def test_committing_it_again_changes_nothing(writer):
    session = await writer.session(*TURNS)
    draft = await instead_of(writer, session, 1, [20] * 6)
    writer.put(draft)
    one, other = await commit(writer.store, draft), await commit(writer.store, draft)
    assert one.snapshot == other.snapshot
    assert await writer.problems() == []


async def test_nothing_is_replaced_but_the_head(writer):
    session = await writer.session(*TURNS)
    draft = await instead_of(writer, session, 1, [20] * 6)
    writer.put(draft)
    await writer.turn(session.id, [13])
    with pytest.raises(HeadMoved):
        await commit(writer.store, draft)
    assert await writer.history(session.id) == [*[token for turn in TURNS for token in turn], 13]
    assert await writer.problems() == []


async def test_a_head_is_not_replaced_by_what_goes_on_from_elsewhere(writer):
    session = await writer.session(*TURNS)
    fork = await writer.store.fork(session.id)
    await writer.turn(fork.id, [13])
    elsewhere = (await writer.store.session(fork.id)).head
    snapshot = await writer.store.snapshot(elsewhere)
    draft = replace(
        await writer.draft(session.id, []),
        parent=elsewhere,
        new_tokens=array("I", [14]),
        total_tokens=snapshot.total_tokens + 1,
        boundary=snapshot.boundary,
        boundary_hash=snapshot.boundary_hash,
        page_hashes=(),
        replaces=session.head,
    )
    with pytest.raises(InvalidDraft, match="does not descend"):
        await commit(writer.store, draft)
    assert (await writer.store.session(session.id)).head == session.head
    assert await writer.problems() == []


async def test_an_exported_session_has_its_new_history(writer, tmp_path):
    session = await writer.session(*TURNS)
    draft = await instead_of(writer, session, 1, [20] * 6)
    writer.put(draft)
    await commit(writer.store, draft)
    await writer.store.export_session(session.id, tmp_path / "session")
    taken = await writer.store.import_session(tmp_path / "session", tenant=session.body.tenant)
    assert await writer.history(taken.id) == await writer.history(session.id)
