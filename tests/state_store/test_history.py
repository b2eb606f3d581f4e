"""Histories are compared and shown as a tree; nothing of another tenant or damaged is."""

from __future__ import annotations

import pytest
from writer import TENANT, Trips

from state_store.errors import CorruptObject, ForeignTenant, InvalidId, NotFound
from state_store.history import TreePage
from state_store.layout import LineageKeys, lineage_of
from state_store.store import StateStore

TURNS = ([1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12])  # 1, 2 and 3 pages, a state each


async def ids_of(writer, session) -> list[str]:
    return [snapshot.id for snapshot in await writer.store.ancestors(session.head)]


# ---- diff ---------------------------------------------------------------------


async def test_two_forks_part_at_their_last_common_snapshot(writer):
    session = await writer.session(*TURNS)
    branch = await writer.store.fork(session.id)
    ours = [(await writer.turn(session.id, turn)).snapshot for turn in ([20, 21], [22])]
    theirs = [(await writer.turn(branch.id, turn)).snapshot for turn in ([20, 31], [32], [33])]
    diff = await writer.store.diff(session.id, branch.id)
    assert diff.ancestor == await writer.store.snapshot(session.head)
    assert diff.left == tuple(ours)
    assert diff.right == tuple(theirs)
    assert (diff.common_tokens, diff.left_tokens, diff.right_tokens) == (12, 3, 4)
    assert diff.first_difference == 13
    turned = await writer.store.diff(theirs[-1].id, session.id)
    assert (turned.left, turned.right, turned.first_difference) == (diff.right, diff.left, 13)


async def test_a_history_and_its_own_past_part_where_the_past_ends(writer):
    session = await writer.session(*TURNS)
    first, *rest = await writer.store.ancestors(session.head)
    diff = await writer.store.diff(first.id, session.id)
    assert (diff.ancestor, diff.left, diff.right) == (first, (), tuple(rest))
    assert diff.first_difference is None
    same = await writer.store.diff(session.id, session.head)
    assert (same.left, same.right, same.first_difference) == ((), (), None)
    assert same.common_tokens == 12


async def test_equal_tokens_in_other_turns_are_no_difference(writer):
    session = await writer.session(TURNS[0])
    branch = await writer.store.fork(session.id)
    for turn in ([1, 2, 3], [4, 5, 6]):
        await writer.turn(session.id, turn)
    for turn in ([1], [2, 3, 4, 5], [7]):
        await writer.turn(branch.id, turn)
    diff = await writer.store.diff(session.id, branch.id)
    assert (diff.common_tokens, diff.first_difference) == (5, 10)
    await writer.rewind(branch.id, diff.right[1].id)
    assert (await writer.store.diff(session.id, branch.id)).first_difference is None


async def test_histories_without_a_common_snapshot_part_at_the_beginning(writer):
    one, other = await writer.session([1, 2], [3]), await writer.session([1, 2, 4])
    diff = await writer.store.diff(one.id, other.id)
    assert (diff.ancestor, len(diff.left), len(diff.right)) == (None, 2, 1)
    assert (diff.common_tokens, diff.first_difference) == (0, 2)
    empty = await writer.store.fork((await writer.session()).id)
    diff = await writer.store.diff(empty.id, other.id)
    assert (diff.ancestor, diff.left, diff.left_tokens, diff.right_tokens) == (None, (), 0, 3)
    assert diff.first_difference is None


@pytest.mark.parametrize(("left", "right"), [(0, 40), (40, 1), (20, 20), (3, 17)])
async def test_a_diff_of_any_two_lengths_is_exact(writer, left, right, monkeypatch):
    monkeypatch.setattr("state_store.history._BATCH", 3)
    session = await writer.session([1])
    branch = await writer.store.fork(session.id)
    for count, one, token in ((left, session, 2), (right, branch, 3)):
        for _ in range(count):
            await writer.turn(one.id, [token])
    diff = await writer.store.diff(session.id, branch.id)
    assert (len(diff.left), len(diff.right), diff.common_tokens) == (left, right, 1)
    assert diff.ancestor.id == session.head


# ---- tree -----------------------------------------------------------------------


async def test_a_tree_shows_all_that_grew_from_one_root(writer):
    root = await writer.session(*TURNS[:2])
    one, two = await ids_of(writer, root)
    empty = await writer.store.branch_at(root.id, tokens=0)
    early = await writer.store.fork(root.id, snapshot_id=one)
    three = (await writer.turn(early.id, [7])).snapshot.id
    late = await writer.store.fork(root.id)
    await writer.session([1])  # another lineage
    for any_id in (root.id, early.id, three):
        tree = await writer.store.tree(any_id)
        assert tree.lineage == lineage_of(root.id)
        assert next(iter(tree.snapshots)) == one
        assert set(tree.snapshots) == {one, two, three}
        assert tree.snapshots[two] == await writer.store.snapshot(two)
        assert [session.id for session in tree.sessions] == [
            root.id, empty.id, early.id, late.id,
        ]  # fmt: skip
        assert [snapshot.id for snapshot in tree.children(None)] == [one]
        assert {snapshot.id for snapshot in tree.children(one)} == {two, three}
        assert tree.children(three) == ()
        assert [session.id for session in tree.heads(two)] == [root.id, late.id]
        assert [session.id for session in tree.heads(None)] == [empty.id]
        assert tree.heads(one) == ()


async def test_a_tree_leaves_out_what_is_being_let_go(writer, server, prefix):
    root = await writer.session(*TURNS[:2])
    branch = await writer.store.fork(root.id)
    for turn in ([7], [8]):
        await writer.turn(branch.id, turn)
    async with await StateStore.connect(server.url, prefix=prefix) as dying:
        Trips(dying).crash_at = ("after", 3)  # deleted; nothing is unwound yet
        with pytest.raises(Exception, match="crash"):
            await dying.delete_session(branch.id)
    assert len((await writer.store.tree(root.id)).snapshots) == 2
    await writer.store.recover(older_than=0)
    assert len((await writer.store.tree(root.id)).snapshots) == 2


async def test_a_tree_that_is_pruned_while_it_is_read_is_whole(writer, server, prefix):
    at, met = 0, True
    while met:
        at += 1
        root = await writer.session(*TURNS[:2])
        branch = await writer.store.fork(root.id)
        await writer.turn(branch.id, [7])
        async with await StateStore.connect(server.url, prefix=prefix) as store:
            trips = Trips(store)
            trips.between = (at, lambda branch=branch: writer.store.delete_session(branch.id))
            tree = await store.tree(root.id)
            met = trips.between is None
        assert len(tree.snapshots) - len(tree.sessions) == 1
        assert {s.parent for s in tree.snapshots.values()} <= {None, *tree.snapshots}
    assert at > 2


async def test_a_tree_with_a_missing_snapshot_says_so(writer, raw, prefix):
    root = await writer.session(*TURNS)
    raw.delete(LineageKeys(prefix, lineage_of(root.id)).snapshot(root.head))
    with pytest.raises(NotFound, match=f"missing .first: {root.head}"):
        await writer.store.tree(root.id)


async def test_what_is_gone_has_no_tree(writer):
    session = await writer.session([1])
    await writer.store.delete_session(session.id)
    with pytest.raises(NotFound):
        await writer.store.tree(session.id)
    with pytest.raises(InvalidId):
        await writer.store.tree("nothing")


# ---- pages of a tree --------------------------------------------------------------


async def pages_of(store, any_id: str, limit: int) -> list[TreePage]:
    pages, after = [], None
    while True:
        pages.append(await store.page_of_tree(any_id, limit=limit, after=after))
        after = pages[-1].end
        if after is None:
            return pages


async def forked(writer, turns: int):
    """A session of so many turns, and a fork of it for each third one."""
    root = await writer.session([1])
    for number in range(2, turns + 1):
        await writer.turn(root.id, [number])
        if number % 3 == 0:
            await writer.store.fork(root.id)
    return root


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_pages_of_a_tree_are_the_whole_of_it(writer, limit):
    root = await forked(writer, 12)
    early = await writer.store.fork(root.id, snapshot_id=(await ids_of(writer, root))[0])
    await writer.turn(early.id, [7])
    pages = await pages_of(writer.store, root.id, limit)
    assert all(len(page.snapshots) + len(page.sessions) == limit for page in pages[:-1])
    snapshots = [one for page in pages for one in page.snapshots]
    sessions = [one for page in pages for one in page.sessions]
    tree = await writer.store.tree(root.id)
    assert {one.id: one for one in snapshots} == tree.snapshots
    assert sessions[::-1] == list(tree.sessions)
    seen: set[str] = set()
    for one in snapshots:
        assert one.parent not in seen  # a parent is no newer
        seen.add(one.id)


async def test_a_page_of_a_tree_costs_what_it_shows_however_much_there_is(writer, raw):
    small, large = await forked(writer, 12), await forked(writer, 240)

    async def cost(root, after=None):
        before = raw.info("stats")
        page = await writer.store.page_of_tree(root.id, limit=6, after=after)
        after = raw.info("stats")
        assert len(page.snapshots) + len(page.sessions) == 6
        sums = ("total_commands_processed", "total_net_output_bytes")
        return [after[one] - before[one] for one in sums], page.end

    await cost(small)  # the server knows the script from here on
    (commands, size), _ = await cost(small)
    after = None
    for _ in range(40):
        (taken, read), after = await cost(large, after)
        assert taken <= 1.2 * commands
        assert read <= 1.3 * size


async def test_pages_of_a_tree_leave_out_what_is_being_let_go(writer, server, prefix):
    root = await writer.session(*TURNS[:2])
    branch = await writer.store.fork(root.id)
    await writer.turn(branch.id, [7])
    async with await StateStore.connect(server.url, prefix=prefix) as dying:
        Trips(dying).crash_at = ("after", 3)  # deleted; nothing is unwound yet
        with pytest.raises(Exception, match="crash"):
            await dying.delete_session(branch.id)
    (page,) = await pages_of(writer.store, root.id, 9)
    assert [one.id for one in page.sessions] == [root.id]
    assert len(page.snapshots) == 2
    await writer.store.recover(older_than=0)
    assert await pages_of(writer.store, root.id, 9) == [page]


async def test_what_is_made_while_a_tree_is_read_moves_no_page(writer):
    root = await forked(writer, 6)
    first = await writer.store.page_of_tree(root.id, limit=3)
    rest = await writer.store.page_of_tree(root.id, limit=99, after=first.end)
    newest = await writer.store.fork(root.id)
    await writer.turn(newest.id, [9])
    assert await writer.store.page_of_tree(root.id, limit=99, after=first.end) == rest
    assert (await writer.store.page_of_tree(root.id, limit=2)).sessions[0].id == newest.id


async def test_a_lineage_that_is_deleted_leaves_no_tree(writer, raw, prefix):
    root = await forked(writer, 4)
    for session in (await writer.store.tree(root.id)).sessions:
        await writer.store.delete_session(session.id)
    assert raw.exists(LineageKeys(prefix, lineage_of(root.id)).tree) == 0


# ---- costs ----------------------------------------------------------------------


async def trips_of_walks(writer, length: int) -> list[int]:
    """Round trips of a diff, a branch and a rewind near the end of a history."""
    session = await writer.session(*([n] for n in range(length)))
    branch = await writer.store.fork(session.id)
    await writer.turn(branch.id, [1])
    parent = (await writer.store.snapshot(session.head)).parent
    lease = await writer.lease(session.id)
    trips = Trips(writer.store)
    found = []
    for operation in (
        lambda: writer.store.diff(session.id, branch.id),
        lambda: writer.store.branch_at(session.id, tokens=length - 2),
        lambda: writer.store.rewind(session.id, parent, lease=lease),
    ):
        trips.count = 0
        await operation()
        found.append(trips.count)
    return found


async def test_walks_take_round_trips_by_what_they_return_and_not_by_the_histories_length(writer):
    await trips_of_walks(writer, 8)  # the server knows all scripts from here on
    assert await trips_of_walks(writer, 8) == await trips_of_walks(writer, 150)


async def test_whole_trees_and_histories_take_few_round_trips(writer):
    session = await writer.session(*([n] for n in range(300)))
    assert len((await writer.store.tree(session.id)).snapshots) == 300
    trips = Trips(writer.store)
    await writer.store.tree(session.id)
    assert trips.count <= 3
    trips.count = 0
    assert len(await writer.store.ancestors(session.head)) == 300
    assert trips.count <= 5


# ---- tenants ----------------------------------------------------------------------


async def test_nothing_of_one_tenant_answers_to_another(writer):
    session = await writer.session(*TURNS)
    lease = await writer.lease(session.id)
    store = writer.store
    calls = [
        lambda tenant: store.session(session.id, tenant=tenant),
        lambda tenant: store.fork(session.id, tenant=tenant),
        lambda tenant: store.branch_at(session.id, tokens=5, tenant=tenant),
        lambda tenant: store.snapshot(session.head, tenant=tenant),
        lambda tenant: store.ancestors(session.head, tenant=tenant),
        lambda tenant: store.tokens(session.head, tenant=tenant),
        lambda tenant: store.diff(session.id, session.head, tenant=tenant),
        lambda tenant: store.tree(session.id, tenant=tenant),
        lambda tenant: store.page_of_tree(session.id, limit=9, tenant=tenant),
        lambda tenant: store.rewind(session.id, session.head, lease=lease, tenant=tenant),
        lambda tenant: store.delete_session(session.id, tenant=tenant),
    ]
    before = await store.check_integrity()
    for call in [lambda t: store.acquire(session.id, ttl=9, owner="x", tenant=t), *calls]:
        with pytest.raises(ForeignTenant, match="no "):
            await call("other")
    assert await store.check_integrity() == before
    for call in calls:
        await call(TENANT)
    with pytest.raises(NotFound) as gone:
        await store.snapshot(session.head, tenant="other")
    assert isinstance(gone.value, NotFound)


# ---- damage -------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "another's"])
async def test_a_damaged_token_log_is_never_loaded(writer, raw, prefix, damage):
    session = await writer.session(*TURNS)
    middle = (await ids_of(writer, session))[1]
    key = LineageKeys(prefix, lineage_of(session.id)).tokens(middle)
    value = raw.get(key)
    raw.set(
        key,
        {
            "flipped": bytes([value[0] ^ 1]) + value[1:],
            "cut": value[:-4],
            "longer": value + bytes(4),
            "another's": bytes(len(value)),
        }[damage],
    )
    with pytest.raises(CorruptObject, match=middle):
        await writer.store.tokens(session.head)
    branch = await writer.store.fork(session.id, snapshot_id=(await ids_of(writer, session))[0])
    with pytest.raises(CorruptObject, match=middle):
        await writer.store.diff(session.id, (await writer.session([1, 2, 3, 4, 5, 6, 7])).id)
    assert await writer.history(branch.id) == TURNS[0]


async def test_a_missing_token_log_is_named(writer, raw, prefix):
    session = await writer.session(*TURNS)
    raw.delete(LineageKeys(prefix, lineage_of(session.id)).tokens(session.head))
    with pytest.raises(NotFound, match=f"token log of snapshot {session.head} is missing"):
        await writer.store.tokens(session.head)


async def test_a_record_whose_pages_were_exchanged_is_never_loaded(writer, raw, prefix):
    session = await writer.session(*TURNS)
    keys = LineageKeys(prefix, lineage_of(session.id))
    record = await writer.store.snapshot(session.head)
    forged = record.model_copy(update={"page_hashes": bytes(32)})
    raw.hset(keys.snapshot(session.head), "body", forged.pack())
    with pytest.raises(CorruptObject, match=session.head):
        await writer.store.tokens(session.head)
