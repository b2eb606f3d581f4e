"""A commit that takes the head's place: it goes on from further back in the session's history.

Also together with a turn that goes on from it, in one step.
"""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from writer import TENANT, commit, objects_of

from state_store.errors import HeadMoved, InvalidDraft, NotFound, ObjectsMissing, QuotaExceeded
from state_store.quotas import Quota

TURNS = ([1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12])  # 1, 2 and 3 pages, a state each


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
async def test_the_new_head_goes_on_from_where_it_says_and_the_old_one_is_let_go(writer, kept):
    session = await writer.session(*TURNS)
    gone = (await writer.store.ancestors(session.head))[kept:]
    draft = await writer.instead_of(session, kept, [20] * 6)
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
    draft = await writer.instead_of(session, 1, [20] * 6)
    writer.put(draft)
    await commit(writer.store, draft)
    assert await writer.history(fork.id) == [token for turn in TURNS for token in turn]
    assert await writer.history(session.id) == [*TURNS[0], *[20] * 6]
    await writer.store.delete_session(fork.id)
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.problems) == (2, [])


async def test_committing_it_again_changes_nothing(writer):
    session = await writer.session(*TURNS)
    draft = await writer.instead_of(session, 1, [20] * 6)
    writer.put(draft)
    one, other = await commit(writer.store, draft), await commit(writer.store, draft)
    assert one.snapshot == other.snapshot
    assert await writer.problems() == []


async def test_nothing_is_replaced_but_the_head(writer):
    session = await writer.session(*TURNS)
    draft = await writer.instead_of(session, 1, [20] * 6)
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
    draft = await writer.instead_of(session, 1, [20] * 6)
    writer.put(draft)
    await commit(writer.store, draft)
    await writer.store.export_session(session.id, tmp_path / "session")
    taken = await writer.store.import_session(tmp_path / "session", tenant=session.body.tenant)
    assert await writer.history(taken.id) == await writer.history(session.id)


async def rewritten(writer, session, kept=1):
    """A draft of a turn, onto one that takes the head's place; their tokens after those kept."""
    first = await writer.instead_of(session, kept, [20] * 6)
    second = await writer.going_on(first, [21] * 5)
    for draft in (first, second):
        writer.put(draft)
    return second, [*[20] * 6, *[21] * 5]


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
async def test_a_turn_and_what_it_goes_on_from_take_the_heads_place_in_one_step(writer, kept):
    session = await writer.session(*TURNS)
    gone = (await writer.store.ancestors(session.head))[kept:]
    draft, tokens = await rewritten(writer, session, kept)
    done = await commit(writer.store, draft)
    assert (await writer.store.session(session.id)).head == done.snapshot.id
    assert done.snapshot.parent == await writer.store.identify(draft.onto)
    kept_tokens = [token for turn in TURNS[:kept] for token in turn]
    assert await writer.history(session.id) == [*kept_tokens, *tokens]
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.problems) == (kept + 2, [])
    for snapshot in gone:
        with pytest.raises(NotFound):
            await writer.store.snapshot(snapshot.id)
    # And back to between the two.
    back = await writer.rewind(session.id, done.snapshot.parent)
    assert await writer.history(back.id) == [*kept_tokens, *[20] * 6]
    assert await writer.problems() == []


async def test_both_are_found_where_equal_ones_were(writer):
    """Held by a fork, or by nobody any more and not yet gone."""
    session = await writer.session(*TURNS)
    fork = await writer.store.fork(session.id)
    drafts = {one.id: (await rewritten(writer, one))[0] for one in (session, fork)}
    one = await commit(writer.store, drafts[session.id])
    other = await commit(writer.store, drafts[fork.id])
    assert one.snapshot == other.snapshot
    assert (await commit(writer.store, drafts[fork.id])).snapshot == other.snapshot
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.problems) == (3, [])
    await writer.store.delete_session(session.id)
    assert await writer.problems() == []
    await writer.store.delete_session(fork.id)
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.objects, report.problems) == (0, 0, [])


@pytest.mark.parametrize("dead", [1, 2])
async def test_what_nobody_holds_any_more_is_held_again(writer, raw, monkeypatch, dead):
    """The last one or two of three were being let go of when they were committed anew."""
    session = await writer.session(*TURNS)
    fork = await writer.store.fork(session.id)
    again = (await rewritten(writer, fork))[0]
    await commit(writer.store, (await rewritten(writer, session))[0])
    with monkeypatch.context() as patch:
        patch.setattr("state_store.garbage.unwind", nothing_yet)
        if dead == 1:
            between = (await writer.store.ancestors(await head(writer, session)))[-2]
            await writer.rewind(session.id, between.id)
        else:
            await writer.store.delete_session(session.id)
        assert raw.keys(f"{writer.prefix}:{{*}}:dead")
        await commit(writer.store, again)
    await writer.store.recover(older_than=0)
    assert await writer.history(fork.id) == [*TURNS[0], *[20] * 6, *[21] * 5]
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.problems) == (3, [])


@pytest.mark.parametrize("lacking", [0, 1])
async def test_neither_is_committed_without_all_objects_of_both(writer, raw, lacking):
    session = await writer.session(*TURNS)
    draft, _ = await rewritten(writer, session)
    lost = objects_of(draft.chain[lacking])[-1]
    raw.delete(writer.names()[0].key(lost))
    with pytest.raises(ObjectsMissing) as refused:
        await commit(writer.store, draft)
    assert {ref.tag for ref in refused.value.missing} == {lost.tag}
    assert (await writer.store.session(session.id)).head == session.head
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.problems) == (3, [])


async def test_a_quota_has_room_for_both_or_takes_neither(writer):
    session = await writer.session(*TURNS)
    draft, tokens = await rewritten(writer, session)
    there = sum(map(len, TURNS))
    await writer.store.set_quota(TENANT, Quota(tokens=there + len(tokens) - 1))
    with pytest.raises(QuotaExceeded):
        await commit(writer.store, draft)
    assert (await writer.store.session(session.id)).head == session.head
    await writer.store.set_quota(TENANT, Quota(tokens=there + len(tokens)))
    await commit(writer.store, draft)
    assert await writer.problems() == []


async def test_a_draft_goes_on_from_one_thing_and_in_one_session(writer):
    session, other = await writer.session(*TURNS), await writer.session(*TURNS)
    draft, _ = await rewritten(writer, session)
    for fields in ({"parent": session.head}, {"replaces": session.head}):
        with pytest.raises(InvalidDraft, match="as well"):
            replace(draft, **fields)
    with pytest.raises(InvalidDraft, match="another session"):
        replace(draft, session_id=other.id)
    with pytest.raises(InvalidDraft, match="new ones after"):
        await commit(writer.store, replace(draft, total_tokens=draft.total_tokens + 1))
    assert (await writer.store.session(session.id)).head == session.head


async def test_ancestors_are_read_as_far_as_they_are_wanted(writer):
    session = await writer.session(*TURNS)
    whole = await writer.store.ancestors(session.head)
    ends = [snapshot.total_tokens for snapshot in whole]
    assert await writer.store.ancestors(session.head, beyond=ends[0]) == whole[1:]
    assert await writer.store.ancestors(session.head, beyond=ends[0] - 1) == whole
    assert await writer.store.ancestors(session.head, beyond=ends[-1]) == []


async def head(writer, session):
    return (await writer.store.session(session.id)).head


async def nothing_yet(*_):
    return 0
