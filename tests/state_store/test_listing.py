"""A tenant's sessions are listed page by page, whatever happens to them in between."""

from __future__ import annotations

import pytest
from writer import TENANT

from state_store.layout import TenantKeys
from state_store.sessions import Listed


async def pages(store, limit):
    """Ids by page."""
    found, after = [], None
    while True:
        page = await store.page_of_sessions(TENANT, limit=limit, after=after)
        found.append([session.id for session in page.sessions])
        after = page.end
        if after is None:
            return found


@pytest.mark.parametrize("same_moment", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 7, 10])
async def test_pages_are_the_whole_list_in_its_order(
    store, writer, raw, prefix, limit, same_moment
):
    made = [(await writer.session()).id for _ in range(7)]
    if same_moment:
        raw.zadd(TenantKeys(prefix, TENANT).sessions, dict.fromkeys(made, 1.5e9))
    found = await pages(store, limit)
    listed = [one for page in found for one in page]
    assert listed == [session.id for session in await store.sessions(TENANT)]
    assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
    assert sorted(listed) == sorted(made)


async def test_the_next_page_is_found_when_the_sessions_of_this_one_are_deleted(store, writer):
    made = [(await writer.session()).id for _ in range(6)][::-1]
    page = await store.page_of_sessions(TENANT, limit=3)
    for session in page.sessions:
        await store.delete_session(session.id)
    page = await store.page_of_sessions(TENANT, limit=3, after=page.end)
    assert [session.id for session in page.sessions] == made[3:]
    assert page.end is None


async def test_what_is_listed_and_not_made_is_left_out_and_hides_nothing(
    store, writer, raw, prefix
):
    made = [(await writer.session()).id for _ in range(2)]
    listed = TenantKeys(prefix, TENANT).sessions
    raw.zadd(listed, {f"ses-{'0' * 16}-{number:016x}": 1.5e9 for number in range(3)})
    raw.zadd(listed, {made[0]: 1.4e9})
    assert await pages(store, 2) == [[made[1]], [], [made[0]]]
    assert raw.zcard(listed) == 2
    assert await store.page_of_sessions(TENANT, limit=2, after=Listed(0.0, "")) == ([], None)
