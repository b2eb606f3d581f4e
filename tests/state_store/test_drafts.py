"""A commit refuses drafts that contradict the parent or the state format, and commits nothing."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from writer import FINGERPRINT, PAGE, Writer

from state_store.drafts import check_draft, token_log
from state_store.errors import HeadMoved, InvalidDraft, NotFound

OTHER_FORMAT = FINGERPRINT.model_copy(update={"weights": "another"})
PAIRS = FINGERPRINT.model_copy(update={"bigram": True})


@pytest.fixture
async def session(writer):
    """Six tokens: a page, and two tokens past the boundary."""
    return await writer.session(range(6))


async def refused(writer: Writer, draft) -> str:
    """Why; and that nothing at all came of it."""
    before = await writer.store.session(draft.session_id)
    lease = await writer.lease(draft.session_id)
    with pytest.raises(InvalidDraft) as caught:
        await writer.store.commit(draft, lease=lease, durability="memory")
    assert await writer.store.session(draft.session_id) == before
    assert (await writer.store.recover(older_than=0)).snapshots == 0
    assert await writer.problems() == []
    assert "othing" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("off", [1, -1])
async def test_a_token_count_that_does_not_follow_from_the_parent_is_refused(writer, session, off):
    draft = await writer.draft(session.id, range(4))
    writer.put(draft)
    why = await refused(writer, replace(draft, total_tokens=10 + off))
    assert f"{10 + off} tokens in all, and 4 new ones after 6 make 10" in why


async def test_a_first_turn_cannot_have_more_tokens_than_it_brings(writer):
    session = await writer.session()
    draft = await writer.draft(session.id, range(8))
    writer.put(draft)
    assert "after 0 make 8" in await refused(writer, replace(draft, total_tokens=9))


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_page_hashes_that_are_not_as_many_as_the_pages_are_refused(writer, session, count):
    draft = await writer.draft(session.id, range(9))
    writer.put(draft)
    assert len(draft.page_hashes) == 2  # those of tokens 4 to 12
    hashes = (draft.boundary_hash,) * count
    why = await refused(writer, replace(draft, page_hashes=hashes))
    assert f"{count} page hashes, and 2 pages of 4 tokens lie between 4 and 12" in why


@pytest.mark.parametrize("boundary", [9, 11])
async def test_a_boundary_within_a_page_is_refused(writer, session, boundary):
    draft = await writer.draft(session.id, range(9))
    writer.put(draft)
    why = await refused(writer, replace(draft, boundary=boundary))
    assert f"boundary {boundary} is not the end of a page of {PAGE} tokens" in why


async def test_a_boundary_before_the_parents_is_refused(writer, session):
    draft = await writer.draft(session.id, range(1))
    lower = replace(draft, boundary=0, boundary_hash=None, page_hashes=())
    assert "boundary 0 is before the parent's 4" in await refused(writer, lower)


async def test_another_page_at_the_parents_boundary_is_refused(writer, session):
    draft = await writer.draft(session.id, range(1))
    assert draft.page_hashes == ()
    assert "another" in await refused(writer, replace(draft, boundary_hash="0" * 64))


@pytest.mark.parametrize("ranks", [0, 1, 3])
async def test_a_number_of_ranks_that_the_format_does_not_have_is_refused(writer, session, ranks):
    draft = await writer.draft(session.id, range(4))
    writer.put(draft)
    why = await refused(writer, replace(draft, ranks=ranks))
    assert f"{ranks} ranks, and its state format has 2" in why


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (array("q", [1, -1, 2, 3]), "token id -1 "),
        (array("Q", [1, 2, 3, 1 << 32]), "token id 4294967296 "),
        ([1, 2, 3, -(1 << 40)], "token id -1099511627776 "),
        ([1, 2, 3, 0.5], "whole numbers"),
        ([1, 2, 3, 1 << 70], "whole numbers"),
    ],
)
async def test_token_ids_that_would_be_stored_as_others_are_refused(writer, session, tokens, why):
    draft = await writer.draft(session.id, range(4))
    writer.put(draft)
    assert why in await refused(writer, replace(draft, new_tokens=tokens))


@pytest.mark.parametrize("name", ["x" * 64, "0" * 62, "A" * 64, "0" * 63 + "\n"])
async def test_a_text_that_is_no_hash_is_refused(writer, session, name):
    draft = await writer.draft(session.id, range(4))
    bad = replace(draft, page_hashes=(name,), boundary_hash=name)
    assert "is not the hash of a page" in await refused(writer, bad)


async def test_everything_that_is_wrong_is_said_at_once(writer, session):
    draft = await writer.draft(session.id, range(4))
    why = await refused(writer, replace(draft, ranks=7, total_tokens=20))
    assert "7 ranks" in why
    assert "20 tokens in all" in why


async def test_a_turn_of_another_format_brings_all_pages_and_may_end_earlier(writer, session):
    parent = await writer.store.snapshot((await writer.turn(session.id, range(6))).snapshot.id)
    draft = await writer.draft(session.id, range(1))
    one, two = "1" * 64, "2" * 64
    other = replace(draft, fingerprint_id=OTHER_FORMAT.id)
    for pages in ((), (one,), (one, two)):
        check_draft(
            replace(
                other,
                boundary=len(pages) * PAGE,
                boundary_hash=pages[-1] if pages else None,
                page_hashes=pages,
            ),
            OTHER_FORMAT,
            parent,
        )
    assert parent.boundary == 12
    with pytest.raises(InvalidDraft, match="3 pages of 4 tokens lie between 0 and 12"):
        check_draft(other, OTHER_FORMAT, parent)


async def test_a_page_over_token_pairs_needs_a_token_after_it(writer):
    session = await writer.session()
    eight, nine = [await writer.draft(session.id, range(count)) for count in (8, 9)]
    check_draft(nine, PAIRS, None)
    check_draft(eight, FINGERPRINT, None)
    with pytest.raises(InvalidDraft, match="no token follows boundary 8"):
        check_draft(eight, PAIRS, None)


async def test_a_draft_on_a_snapshot_that_is_gone_is_late(writer, session):
    branch = await writer.store.fork(session.id)
    gone = await writer.turn(branch.id, range(4))
    draft = replace(await writer.draft(branch.id, range(4)), session_id=session.id)
    orphan = await writer.draft(branch.id, range(4))
    await writer.store.delete_session(branch.id)
    assert draft.parent == gone.snapshot.id
    lease = await writer.lease(session.id)
    with pytest.raises(HeadMoved, match=session.head):
        await writer.store.commit(draft, lease=lease, durability="memory")
    with pytest.raises(NotFound, match=branch.id):
        await writer.store.commit(
            orphan, lease=replace(lease, session_id=branch.id), durability="memory"
        )
    assert await writer.problems() == []


async def test_token_ids_of_any_whole_type_are_stored_alike(writer, session):
    draft = await writer.draft(session.id, range(3))
    ids = [0, 7, 2**32 - 1]
    for tokens in (ids, array("I", ids), array("q", ids)):
        assert token_log(replace(draft, new_tokens=tokens)) == b"\0\0\0\0\7\0\0\0\xff\xff\xff\xff"
    assert token_log(replace(draft, new_tokens=array("I"))) == b""
