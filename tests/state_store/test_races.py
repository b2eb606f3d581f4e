"""Two writers of one session: exactly one wins, and the other is told why by name."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import replace

import pytest
from writer import Writer

from state_store.errors import HeadMoved, LeaseHeld, StoreError
from state_store.records import Commit
from state_store.store import StateStore

RACES = 1000


@pytest.fixture
async def rivals(server, prefix, objects):
    """Two processes."""
    async with (
        await StateStore.connect(server.url, prefix=prefix) as one,
        await StateStore.connect(server.url, prefix=prefix) as other,
    ):
        yield [Writer(store, objects, prefix) for store in (one, other)]


async def outcomes(*operations) -> list[str]:
    """`won`, or the name of the error, of each."""
    results = await asyncio.gather(*operations, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, StoreError):
            raise result
    return ["won" if not isinstance(r, StoreError) else type(r).__name__ for r in results]


async def test_of_two_that_want_the_lease_one_gets_it(rivals):
    one, other = rivals
    session = await one.session()
    for _ in range(RACES):
        leases = []

        async def take(writer, leases=leases):
            leases.append(await writer.lease(session.id))

        assert sorted(await outcomes(take(one), take(other))) == [LeaseHeld.__name__, "won"]
        await one.store.release(leases[0])


async def test_of_two_commits_onto_one_head_one_becomes_the_head(rivals):
    """Both have the lease, as when one process runs two turns at once by mistake. Each is the
    first to begin in half of the races."""
    one, other = rivals
    session = await one.session()
    lease = await one.lease(session.id, ttl=600)
    template = await one.draft(session.id, [0, 0])
    wins = [0, 0]
    for race in range(RACES):
        drafts = [replace(template, new_tokens=array("I", [race, side])) for side in (0, 1)]
        commits: list[Commit] = []

        async def commit(side, drafts=drafts, commits=commits):
            store = rivals[side].store
            commits.append(await store.commit(drafts[side], lease=lease, durability="memory"))

        sides = (0, 1) if race % 2 else (1, 0)
        results = await outcomes(*map(commit, sides))
        assert sorted(results) == [HeadMoved.__name__, "won"]
        winner = sides[results.index("won")]
        wins[winner] += 1
        assert await other.history(session.id) == [race, winner]
        assert commits[0].snapshot.id == (await one.store.session(session.id)).head
        await one.store.rewind(session.id, None, lease=lease)
    assert min(wins) > 0, "the two never really raced"
    assert await one.problems() == []
