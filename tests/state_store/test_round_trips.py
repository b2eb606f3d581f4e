"""How often each of the hot operations waits for the server. Counted, not timed."""

from __future__ import annotations

import pytest
from writer import FINGERPRINT, TENANT, Trips, commit

from state_store.registry import Heartbeat
from state_store.store import StateStore


@pytest.fixture
def count(store):
    """Round trips that an operation takes, once the server knows its scripts."""
    trips = Trips(store)

    async def counted(operation):
        await operation()
        trips.count = 0
        await operation()
        return trips.count

    return counted


async def test_of_making_sessions(store, writer, count):
    session = await writer.session([1] * 9)

    async def create():
        new_id = store.new_session_id()
        await store.create_session(tenant=TENANT, fingerprint=FINGERPRINT, session_id=new_id)

    async def fork():
        await store.fork(session.id, fork_id=store.new_session_id(beside=session.id))

    async def fork_with_labels():
        await store.fork(session.id, labels={"a": "b"})

    assert await count(create) == 4  # made already? room? listed, made
    assert await count(fork) == 4
    assert await count(fork_with_labels) == 4


async def test_of_a_turn(store, writer, count):
    session = await writer.session([1] * 9)
    before = await store.acquire(session.id, ttl=30, owner="before")
    await store.release(before)

    async def write():
        lease, _ = await store.acquire_record(session.id, ttl=30, owner="me")
        await store.release(lease)

    async def turn():
        draft = await writer.draft(session.id, [2] * 5)
        writer.put(draft)
        made.append(await commit(store, draft))

    async def draft():
        await writer.draft(session.id, [2] * 5)

    made = []
    leased, drafted = await count(write), await count(draft)
    assert leased == 3  # the lease, the use, the release
    # What is there, room, the journal, pins, the commit.
    assert await count(turn) == drafted + leased + 5
    assert made[0].snapshot.page_hashes


async def test_of_the_record_of_a_turn(store, writer, count):
    session = await writer.session()

    async def note():
        await store.session_notes.put(session, "turn", b'{"id":"a"}', ttl=60)
        await store.session_notes.delete(session, "turn", beginning=b'{"id":"b"}')
        assert await store.session_notes.get(session, "turn") == b'{"id":"a"}'
        await store.session_notes.delete(session, "turn", beginning=b'{"id":"a"}')
        assert await store.session_notes.get(session, "turn") is None

    assert await count(note) == 5


async def test_of_a_look_at_the_engines(server, store, prefix, count):
    beating = Heartbeat(server.url, "e", {"boot_id": "e"}, ttl=30, prefix=prefix)
    beating._step()

    async def look():
        assert [record["boot_id"] for record in await store.engines()] == ["e"]

    assert await count(look) == 1
    beating.stop()
    assert await store.engines() == []


async def test_recovery_waits_no_longer_for_more_lineages_that_are_at_rest(store, writer, count):
    async def recover():
        await store.recover(older_than=0)

    await writer.session([1] * 9)
    few = await count(recover)
    for number in range(9):
        await writer.session([number] * 9)
    assert await count(recover) == few


async def test_of_what_a_page_shows_with_any_number_of_sessions(server, store, writer, prefix):
    async def page(number):
        """By a process that knows nothing yet."""
        async with await StateStore.connect(server.url, prefix=prefix) as reader:
            trips = Trips(reader)
            sessions = (await reader.page_of_sessions(TENANT, limit=100)).sessions
            heads = await reader.heads(sessions)
            where = await reader.residencies(list(heads))
            notes = await reader.session_notes.get_all(sessions, "turn")
            writers = await reader.writers([one.id for one in sessions])
        assert set(where.items()) == {(one.head, "stored") for one in sessions}
        assert [heads[one.head].total_tokens for one in sessions] == [9] * number
        assert (notes, writers) == ([b"x", *[None] * (number - 1)], ["me", *[None] * (number - 1)])
        return trips.count

    for number in range(12):
        session = await writer.session([number] * 9)
        if number in (2, 11):
            await store.session_notes.put(session, "turn", b"x", ttl=60)
            lease = await store.acquire(session.id, ttl=30, owner="me")
            # The list, records, heads, histories, objects, notes, leases.
            assert await page(number + 1) == 7
            await store.session_notes.delete(session, "turn")
            await store.release(lease)
