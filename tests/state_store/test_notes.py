"""Notes: small values that expire."""

import asyncio

import pytest

from state_store.errors import InvalidTenant


async def test_a_note_is_found_by_its_tenant_alone(writer):
    notes = writer.store.notes
    await notes.put("ann", "a", b"1", ttl=60)
    assert await notes.get("ann", ["b", "a"]) == [None, b"1"]
    assert await notes.get("bob", ["a"]) == [None]
    assert await notes.get("ann", []) == []
    await notes.delete("ann", "a")
    assert await notes.get("ann", ["a"]) == [None]


async def test_one_of_many_puts_a_new_note_and_the_others_see_it(writer):
    notes = writer.store.notes
    seen = await asyncio.gather(
        *(notes.put_new("ann", "a", b"%d" % number, ttl=60) for number in range(20))
    )
    (stored,) = await notes.get("ann", ["a"])
    assert seen.count(None) == 1
    assert seen[int(stored)] is None
    assert set(seen) == {None, stored}


async def test_a_note_expires(writer):
    notes = writer.store.notes
    await notes.put("ann", "a", b"1", ttl=0.05)
    await asyncio.sleep(0.1)
    assert await notes.get("ann", ["a"]) == [None]
    assert await notes.put_new("ann", "a", b"2", ttl=60) is None


async def test_a_note_of_no_tenant_is_refused(writer):
    with pytest.raises(InvalidTenant):
        await writer.store.notes.put("no such {name}", "a", b"1", ttl=60)
