"""Versions of sessions over HTTP: many forks, going back, comparing, the tree, files, defaults."""

import pytest

from agent_runtime.sdk import ApiError
from agent_runtime.wire.turns import SamplingDefaults
from agent_runtime.wire.versions import TreeView

from .served import served
from .talk import HISTORY, say

NOWHERE = "snp-0000000000000000-0000000000000000"


async def test_many_forks_are_made_at_once_and_each_goes_its_way(torpor, session):
    first, second = await say(torpor, session.id, *HISTORY[:2])
    forks = await torpor.forks(session.id, 3, labels={"of": "three"}, idempotency_key="three")
    assert [one.problem for one in forks] == [None] * 3
    made = [one.fork for one in forks]
    assert len({one.id for one in made}) == 3
    assert {(one.head, one.labels["of"]) for one in made} == {(second.snapshot, "three")}
    assert (
        await torpor.forks(session.id, 3, labels={"of": "three"}, idempotency_key="three") == forks
    )
    inside = await torpor.forks(session.id, 2, tokens=5)
    assert [one.fork.tokens for one in inside] == [5, 5]
    early = await torpor.forks(session.id, 1, snapshot=first.snapshot)
    assert early[0].fork.head == first.snapshot
    await torpor.turn(made[0].id, HISTORY[2], max_tokens=8)
    assert (await torpor.get(made[1].id)).head == second.snapshot
    for one in (*forks, *inside, *early):
        await torpor.delete(one.fork.id)


async def test_forks_that_cannot_be_made_say_so_one_by_one(torpor, session):
    await say(torpor, session.id, HISTORY[0])
    (far, same) = await torpor.forks(session.id, 2, tokens=100_000)
    assert (far.fork, far.problem.code) == (None, "bad_request")
    assert same.problem.status == 400
    with pytest.raises(ApiError) as missing:
        await torpor.forks("ses-0000000000000000-0000000000000000", 2)
    assert missing.value.status == 404


async def test_a_session_goes_back_and_on_from_there(torpor, session):
    first, second, _ = await say(torpor, session.id, *HISTORY[:3])
    kept = await torpor.fork(session.id)
    back = await torpor.rewind(session.id, turns=1)
    assert (back.head, back.tokens) == (
        second.snapshot, second.usage.prompt_tokens + second.usage.completion_tokens,
    )  # fmt: skip
    assert (await torpor.rewind(session.id, snapshot=first.snapshot)).head == first.snapshot
    (again,) = await say(torpor, session.id, HISTORY[1])
    assert (again.parent, again.token_ids) == (first.snapshot, second.token_ids)
    assert again.usage.recomputed_tokens <= 64
    assert (await torpor.rewind(session.id, snapshot="")).head is None
    assert len(await torpor.snapshots(kept.id)) == 3
    for wrong, code in (
        ({"turns": 1}, "bad_request"),
        ({"snapshot": second.snapshot}, "not_found"),
        ({"snapshot": "", "expected_head": first.snapshot}, "head_moved"),
    ):
        with pytest.raises(ApiError) as refused:
            await torpor.rewind(session.id, **wrong)
        assert refused.value.code == code
    await torpor.delete(kept.id)


async def test_two_histories_are_compared_and_shown_as_a_tree(torpor, session):
    first, second = await say(torpor, session.id, *HISTORY[:2])
    fork = await torpor.fork(session.id, snapshot=first.snapshot, labels={"a": "b"})
    (other,) = await say(torpor, fork.id, HISTORY[3])
    diff = await torpor.diff(session.id, fork.id)
    assert diff.ancestor.id == first.snapshot
    assert [one.id for one in diff.left] == [second.snapshot]
    assert [one.id for one in diff.right] == [other.snapshot]
    assert diff.common_tokens <= diff.first_difference
    assert (await torpor.diff(session.id, second.snapshot)).right == []
    tree = TreeView.whole([page async for page in torpor.tree(fork.id, limit=2)])
    assert {one.id: one.parent for one in tree.snapshots} == {
        first.snapshot: None, second.snapshot: first.snapshot, other.snapshot: first.snapshot,
    }  # fmt: skip
    assert [(one.id, one.forked_from) for one in tree.sessions] == [
        (session.id, None), (fork.id, session.id),
    ]  # fmt: skip
    assert tree.sessions[1].labels == {"a": "b"}
    with pytest.raises(ApiError) as missing:
        await torpor.diff(session.id, NOWHERE)
    assert missing.value.status == 404
    await torpor.delete(fork.id)


async def test_what_was_looked_at_before_is_not_changed_after_it_moved(torpor, session):
    first, second = await say(torpor, session.id, *HISTORY[:2])
    for attempt in (
        torpor.fork(session.id, expected_head=first.snapshot),
        torpor.suspend(session.id, expected_head=first.snapshot),
        torpor.delete(session.id, expected_head=first.snapshot),
    ):
        with pytest.raises(ApiError) as refused:
            await attempt
        assert refused.value.code == "head_moved"
    fork = await torpor.fork(session.id, expected_head=second.snapshot)
    assert fork.head == second.snapshot
    assert (await torpor.suspend(fork.id, expected_head=second.snapshot)).head == second.snapshot
    await torpor.delete(fork.id, expected_head=second.snapshot)
    with pytest.raises(ApiError) as missing:
        await torpor.get(fork.id)
    assert missing.value.status == 404


async def test_a_session_is_exported_and_imported_as_another(torpor, session, tmp_path):
    turns = await say(torpor, session.id, *HISTORY[:2])
    await torpor.export(session.id, tmp_path / "session")
    imported = await torpor.import_session(tmp_path / "session")
    assert imported.id != session.id
    assert (await torpor.diff(session.id, session.id)).left == []
    view = await torpor.get(session.id)
    assert (imported.tokens, imported.boundary) == (view.tokens, view.boundary)
    (here,) = await say(torpor, session.id, HISTORY[2])
    (there,) = await say(torpor, imported.id, HISTORY[2])
    assert there.token_ids == here.token_ids
    assert len(await torpor.snapshots(imported.id)) == len(turns) + 1
    (tmp_path / "broken").write_bytes((tmp_path / "session").read_bytes()[:-100])
    with pytest.raises(ApiError) as refused:
        await torpor.import_session(tmp_path / "broken")
    assert (refused.value.code, refused.value.status) == ("invalid_export", 400)
    await torpor.delete(imported.id)


async def test_no_file_is_taken_in_that_is_larger_than_the_service_takes(
    stage, torpor, session, tmp_path
):
    await torpor.turn(session.id, "Hello.", max_tokens=4)
    await torpor.export(session.id, tmp_path / "session")
    size = (tmp_path / "session").stat().st_size
    async with served(stage, import_bytes=size) as wide:
        imported = await wide.import_session(tmp_path / "session")
        await wide.delete(imported.id)
    before = {one.id async for one in torpor.sessions()}
    async with served(stage, import_bytes=size - 1) as narrow:
        with pytest.raises(ApiError) as refused:
            await narrow.import_session(tmp_path / "session")
    assert (refused.value.code, refused.value.status) == ("body_too_large", 413)
    assert {one.id async for one in torpor.sessions()} == before


async def test_a_sessions_own_sampling_holds_unless_a_turn_says_otherwise(torpor):
    created = await torpor.create(
        sampling=SamplingDefaults(max_tokens=3, temperature=0.5, seed=1, stop=["zzz"])
    )
    assert len((await torpor.turn(created.id, HISTORY[0])).token_ids) <= 3
    fork = await torpor.fork(created.id)
    (own,) = [await torpor.turn(fork.id, [], proceed=True, max_tokens=2)]
    assert len(own.token_ids) <= 2
    assert own.finish_reason in ("length", "stop")
    plain = await torpor.create()
    one, other = [
        await torpor.turn(id_, HISTORY[3], temperature=0.0) for id_ in (created.id, plain.id)
    ]
    assert len(one.token_ids) <= 3 < len(other.token_ids)
    with pytest.raises(ValueError, match="max_tokens"):
        SamplingDefaults(max_tokens=0)
    for id_ in (created.id, fork.id, plain.id):
        await torpor.delete(id_)
