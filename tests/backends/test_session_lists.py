"""Sessions are listed a page at a time."""

import asyncio

import httpx
import pytest

from agent_runtime.sdk import ApiError
from agent_runtime.sdk.sync import TorporSync
from agent_runtime.wire.tenants import TenantQuota
from state_store.api_keys import OPERATORS
from state_store.layout import LineageKeys, lineage_of
from tests.serving import runtime_process


@pytest.fixture
async def sessions(torpor):
    """Ids, newest first."""
    made = [(await torpor.create(labels={"n": str(n)})).id for n in range(5)]
    yield made[::-1]
    for one in made:
        await torpor.delete(one)


async def test_all_sessions_are_listed_in_pages(runtime, torpor, sessions):
    for limit in (2, 5, 100):
        listed = [view async for view in torpor.sessions(limit=limit)]
        assert [view.id for view in listed][:5] == sessions
        assert listed[0] == await torpor.get(sessions[0])
    async with httpx.AsyncClient(base_url=runtime.url, trust_env=False) as http:
        page = await http.get("/v1/sessions?limit=2")
        assert [row["id"] for row in page.json()] == sessions[:2]
        page = await http.get(page.links["next"]["url"])
        assert [row["id"] for row in page.json()] == sessions[2:4]
        assert "next" not in (await http.get("/v1/sessions?limit=1000")).links


async def test_a_page_is_given_although_its_sessions_are_being_deleted(torpor, sessions):
    async def listed():
        return {view.id async for view in torpor.sessions(limit=3)}

    more = [(await torpor.create()).id for _ in range(10)]
    lists = await asyncio.gather(*(listed() for _ in range(5)), *map(torpor.delete, more))
    assert all(found >= set(sessions) for found in lists[:5])


@pytest.mark.parametrize("query", ["after=yesterday", "after=1.5e9x,ses-1"])
async def test_a_place_that_is_none_is_refused(torpor, query):
    with pytest.raises(ApiError, match="no place in the list") as refused:
        await torpor._requests.call("GET", f"/v1/sessions?{query}")
    assert refused.value.status == 400


@pytest.mark.parametrize("damage", ["the head names none", "its snapshot is lost"])
async def test_a_session_that_has_lost_something_hides_no_others(torpor, sessions, store, damage):
    await torpor.turn(sessions[1], "Hello.", max_tokens=1)
    head = (await torpor.get(sessions[1])).head
    keys = LineageKeys("torpor", lineage_of(sessions[1]))
    redis = store._control.redis
    if damage == "the head names none":
        await redis.hset(keys.session(sessions[1]), "head", b"\xc1")
    else:
        was = await redis.hgetall(keys.snapshot(head))
        await redis.delete(keys.snapshot(head))
    listed = [view.id async for view in torpor.sessions(limit=100)]
    labelled = [view.id async for view in torpor.sessions(labels={"n": "3"})]
    assert listed[:4] == [one for one in sessions if one != sessions[1]]
    assert labelled == []
    if damage == "the head names none":
        await redis.hset(keys.session(sessions[1]), "head", head)
    else:
        await redis.hset(keys.snapshot(head), mapping=was)


async def test_tenants_are_read_and_limited_without_awaiting(bare_store, store, tmp_path):
    _, key = await store.keys.create(OPERATORS, role="operator")
    process = runtime_process(
        bare_store.url, tmp_path / "log", backend="http://127.0.0.1:1", options=["--require-keys"]
    )
    with process, TorporSync(process.url, api_key=key) as torpor:
        limits = TenantQuota(sessions=3)
        assert torpor.tenants.set_quota("sync-only", limits) == limits
        assert torpor.tenants.quota("sync-only") == limits
        assert "sync-only" in [tenant.name for tenant in torpor.tenants.all(limit=1)]
        assert torpor.tenants.usage("sync-only").sessions == 0
        with pytest.raises(ApiError) as missing:
            torpor.tenants.usage("sync-none")
        assert missing.value.code == "not_found"
