"""Notes and items of an encrypted tenant: nobody reads them, or guesses what they are about."""

import hashlib

import pytest
from sealing import OLD, everything, opened

from state_store.errors import CorruptObject, VaultLocked
from state_store.layout import TenantKeys

ASKED = hashlib.sha256(b"what was said").hexdigest()


async def test_notes_and_items_are_what_was_put(author):
    notes, items = author.store.notes, author.store.items
    await notes.put("ann", ASKED, b"1", ttl=60)
    assert await notes.put_new("ann", ASKED, b"2", ttl=60) == b"1"
    assert await notes.put_new("ann", "other", b"3", ttl=60) is None
    assert await notes.get("ann", ["other", "none", ASKED]) == [b"3", None, b"1"]
    await notes.delete("ann", ASKED)
    assert await notes.get("ann", [ASKED]) == [None]
    await items.add("ann", "talk", [b"1", b"2"], ttl=60)
    await items.add("ann", "talk", [b"3"], ttl=60)
    assert await items.pop("ann", "talk") == b"3"
    assert await items.last("ann", "talk") == [b"1", b"2"]
    await items.clear("ann", "talk")
    assert await items.last("ann", "talk") == []


async def test_neither_their_values_nor_their_names_are_in_the_store(author, raw, prefix):
    await author.store.notes.put("ann", ASKED, b"a very secret note", ttl=60)
    await author.store.items.add("ann", "talk of Ann", [b"a very secret item"], ttl=60)
    stored = b"".join(part for pair in everything(raw, prefix).items() for part in pair)
    for needle in (b"very secret", ASKED.encode(), b"talk of Ann"):
        assert needle not in stored


async def test_they_open_in_their_own_place_only(author, raw, prefix):
    notes = author.store.notes
    await notes.put("ann", "a", b"1", ttl=60)
    (first,) = raw.keys(TenantKeys(prefix, "ann").note("*"))
    await notes.put("ann", "b", b"2", ttl=60)
    (second,) = {*raw.keys(TenantKeys(prefix, "ann").note("*"))} - {first}
    raw.set(second, raw.get(first), px=60_000)
    with pytest.raises(CorruptObject):
        await notes.get("ann", ["b"])


async def test_without_the_master_key_they_are_refused_by_name(author, locked):
    await author.store.notes.put("ann", "a", b"1", ttl=60)
    for refused in (
        locked.notes.get("ann", ["a"]),
        locked.notes.put("ann", "a", b"2", ttl=60),
        locked.items.add("ann", "talk", [b"1"], ttl=60),
        locked.items.last("ann", "talk"),
    ):
        with pytest.raises(VaultLocked, match=f"ann is encrypted under master key {OLD.id}"):
            await refused


async def test_who_knew_the_tenant_in_the_clear_writes_nothing_in_the_clear(
    author, server, prefix, raw
):
    await author.store.create_tenant("new")
    async with await opened(server, prefix) as other:
        await other.notes.put("new", "a", b"open", ttl=60)  # it knows the tenant's record now
        await other.items.add("new", "talk", [b"open"], ttl=60)
        await author.store.delete_tenant("new")
        await author.store.create_tenant("new", encrypted=True)
        await other.notes.put("new", "a", b"very secret", ttl=60)
        await other.items.add("new", "talk", [b"very secret"], ttl=60)
    assert await author.store.notes.get("new", ["a"]) == [b"very secret"]
    assert await author.store.items.last("new", "talk") == [b"very secret"]
    assert not any(b"very secret" in dump for dump in everything(raw, prefix).values())
