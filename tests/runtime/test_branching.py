"""Best of n, tree search and sub-agents, on the real engine."""

import pytest

from agent_runtime.branching import best_of, delegate, merged, search
from agent_runtime.errors import BadRequest
from agent_runtime.graph import build_agent
from agent_runtime.sdk import ApiError
from tests.runtime.talk import PAGE, say


async def sessions_of(torpor):
    return {view.id async for view in torpor.sessions()}


@pytest.fixture
async def spoken(torpor, session):
    """A session with one turn, and the sessions that there are."""
    await say(torpor, session.id, "Remember that the word for harbour is 4712.")
    return session.id, await sessions_of(torpor)


async def longest(result):
    return float(len(result.token_ids))


async def test_the_best_branch_is_kept_and_the_others_are_deleted(torpor, spoken):
    session_id, before = spoken
    seen = []

    async def score(result):
        seen.append(result)
        return [1.0, 3.0, 2.0][len(seen) - 1]

    best = await best_of(torpor, session_id, "What is 12 + 30?", n=3, score=score, max_tokens=24)
    assert (best.score, best.result) == (3.0, seen[1])
    assert best.session_id == seen[1].session_id
    assert len({result.session_id for result in seen}) == 3
    assert all(result.usage.recomputed_tokens <= PAGE for result in seen)
    assert await sessions_of(torpor) == before | {best.session_id}
    assert (await torpor.get(best.session_id)).head == best.result.snapshot
    await torpor.delete(best.session_id)


async def test_a_search_goes_on_from_the_best(torpor, spoken):
    session_id, before = spoken
    best = await search(
        torpor, session_id, ["Tick.", "Tick.", "Tick."], width=2, keep=2, score=longest,
        temperature=1.5, max_tokens=16,
    )  # fmt: skip
    assert await sessions_of(torpor) == before | {best.session_id}
    assert len(await torpor.snapshots(best.session_id)) == 4
    await torpor.delete(best.session_id)


async def test_branches_that_fail_do_not_take_the_others_along(torpor, spoken):
    session_id, before = spoken
    count = 0

    async def sometimes(result):
        nonlocal count
        count += 1
        if count != 2:
            raise RuntimeError("no score")
        return 1.0

    best = await best_of(torpor, session_id, "Tick.", n=3, score=sometimes, max_tokens=8)
    assert await sessions_of(torpor) == before | {best.session_id}
    await torpor.delete(best.session_id)

    async def never(result):
        raise RuntimeError("no score")

    with pytest.raises(RuntimeError):
        await best_of(torpor, session_id, "Tick.", n=2, score=never, max_tokens=8)
    assert await sessions_of(torpor) == before


async def test_sub_agents_know_what_the_session_knows(torpor, registry, spoken):
    session_id, before = spoken
    agent = build_agent(torpor, registry, max_tokens=96)
    reports = await delegate(torpor, agent, session_id, ["What is 12 + 30?", "What is 318 + 264?"])
    assert [report.text for report in reports] == ["12 + 30 = 42.", "318 + 264 = 582."]
    assert merged(reports) == (
        "Task: What is 12 + 30?\nResult: 12 + 30 = 42.\n\n"
        "Task: What is 318 + 264?\nResult: 318 + 264 = 582."
    )
    assert await sessions_of(torpor) == before


async def test_a_sub_agent_that_fails_says_so(torpor, registry, spoken):
    session_id, _ = spoken
    agent = build_agent(torpor, registry, durability="eternal")
    (report,) = await delegate(torpor, agent, session_id, ["What is 12 + 30?"])
    assert report.error is not None
    assert "durability" in report.error
    assert merged([report]).startswith("Task: What is 12 + 30?\nFailed: InvalidRequest: ")


async def test_branches_of_what_is_not_there_are_refused(torpor):
    with pytest.raises(ApiError) as refused:
        await best_of(torpor, "ses-" + "0" * 16 + "-" + "0" * 16, "Hi.", n=2, score=longest)
    assert refused.value.code == "not_found"
    with pytest.raises(BadRequest, match="best of 0"):
        await best_of(torpor, "any", "Hi.", n=0, score=longest)
    with pytest.raises(BadRequest, match="at least one branch"):
        await search(torpor, "any", ["Hi."], width=2, keep=0, score=longest)
