"""A tenant's sessions are listed page by page, whatever happens to them in between."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import redis
from writer import FINGERPRINT, TENANT, Trips

from state_store.errors import NotFound
from state_store.layout import TenantKeys
from state_store.pages import Listed
from state_store.store import StateStore


async def pages(store, limit, **labels):
    """Ids by page."""
    found, after = [], None
    while True:
        page = await store.page_of_sessions(TENANT, limit=limit, after=after, labels=labels)
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


async def test_a_page_ends_no_list_although_its_sessions_are_deleted_while_it_is_read(
    server, store, writer, prefix
):
    made = [(await writer.session()).id for _ in range(3)][::-1]
    at, met = 0, True
    while met:
        at += 1
        doomed = [(await writer.session()).id for _ in range(5)][::-1]

        async def delete(doomed=doomed):
            for one in doomed[1:]:
                await store.delete_session(one)

        async with await StateStore.connect(server.url, prefix=prefix) as reader:
            first = await reader.page_of_sessions(TENANT, limit=1)
            trips = Trips(reader)
            trips.between = (at, delete)
            page, found = await reader.page_of_sessions(TENANT, limit=3, after=first.end), []
            met = trips.between is None
            while page.end is not None:
                found += [session.id for session in page.sessions]
                page = await reader.page_of_sessions(TENANT, limit=3, after=page.end)
            found += [session.id for session in page.sessions]
        assert [one for one in found if one in made] == made
        for one in doomed:
            with contextlib.suppress(NotFound):
                await store.delete_session(one)
    assert at > 2


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


async def create(store, **labels):
    session = await store.create_session(tenant=TENANT, fingerprint=FINGERPRINT, labels=labels)
    return session.id


@pytest.mark.parametrize("same_moment", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 20])
async def test_pages_of_a_label_are_those_that_carry_it_in_the_lists_order(
    store, raw, prefix, limit, same_moment
):
    made = [await create(store, team="ab"[n % 2], env="xyz"[n % 3]) for n in range(12)]
    if same_moment:
        keys = TenantKeys(prefix, TENANT)
        for one in (keys.sessions, *(keys.labelled("team", team) for team in "ab")):
            raw.zadd(one, dict.fromkeys(raw.zrange(one, 0, -1), 1500000000.0))
    order = [session.id for session in await store.sessions(TENANT)]
    found = await pages(store, limit, team="a")
    assert [one for page in found for one in page] == [one for one in order if one in made[::2]]
    assert all(len(page) == limit for page in found[:-1])
    found = await pages(store, limit, team="a", env="x")
    assert {one for page in found for one in page} == set(made[::6])
    assert await pages(store, limit, team="c") == [[]]


async def test_pages_of_a_label_hold_while_sessions_come_and_go(store):
    made = [await create(store, team="a") for _ in range(12)][::-1]
    page = await store.page_of_sessions(TENANT, limit=4, labels={"team": "a"})
    assert [session.id for session in page.sessions] == made[:4]
    await create(store, team="a")  # comes in front of all
    for gone in (*made[2:5], made[9]):
        await store.delete_session(gone)
    await store.set_labels(made[6], {"team": "b"})  # is listed for a while, and not shown
    await store.set_labels(made[10], {"team": "a", "more": "1"})
    rest, after = [], page.end
    while after is not None:
        page = await store.page_of_sessions(TENANT, limit=2, after=after, labels={"team": "a"})
        rest += [session.id for session in page.sessions]
        after = page.end
    assert rest == [made[5], *made[7:9], *made[10:]]


async def test_a_page_of_a_label_costs_the_same_however_many_carry_it(own_server):
    async with await StateStore.connect(own_server.url, prefix="p") as store:
        with redis.Redis.from_url(own_server.url) as raw:
            costs = []
            for count in (60, 240):
                for n in range(count):
                    await create(store, team="a", odd=str(n % 2))
                for labels in ({"team": "a"}, {"team": "a", "odd": "1"}):
                    after = None
                    for _ in range(2):
                        before = traffic(raw)
                        page = await store.page_of_sessions(
                            TENANT, limit=10, after=after, labels=labels
                        )
                        costs.append(traffic(raw) - before)
                        after = page.end
            for few, many in zip(costs[:4], costs[4:], strict=True):
                assert few[0] == many[0] <= 20  # commands: one for each session, and a few
                assert many[1] + many[2] < 2 * (few[1] + few[2])  # bytes, in and out


def traffic(raw):
    """Commands, bytes in and bytes out of the server so far."""
    stats = raw.info("stats")
    names = ("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes")
    return np.array([stats[name] for name in names])
