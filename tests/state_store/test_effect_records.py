"""Records of effects: one of many who begin the same knows it, and they go with their lineage."""

import asyncio

import pytest
from sealing import TURN, everything

from state_store.errors import CorruptObject, InvalidId, NotFound, VaultLocked
from state_store.layout import LineageKeys, lineage_of


async def test_a_record_is_replaced_only_by_who_has_seen_it(writer):
    effects = writer.store.effects
    session = await writer.session([1, 2, 3, 4])
    nothing = await effects.get(session.id, "a")
    assert nothing.value is None
    assert await effects.replace(session.id, "a", nothing, b"1")
    assert not await effects.replace(session.id, "a", nothing, b"2")
    one = await effects.get(session.id, "a")
    assert one.value == b"1"
    assert await effects.replace(session.id, "a", one, b"3")
    assert (await effects.get(session.id, "a")).value == b"3"
    assert (await effects.get(session.id, "b")).value is None


async def test_of_many_who_write_the_same_at_once_one_succeeds(writer):
    effects = writer.store.effects
    session = await writer.session([1, 2, 3, 4])
    nothing = await effects.get(session.id, "a")
    done = await asyncio.gather(
        *(effects.replace(session.id, "a", nothing, b"same") for _ in range(20))
    )
    assert done.count(True) == 1


async def test_all_branches_see_records_and_the_last_one_takes_them_along(writer, raw):
    effects = writer.store.effects
    session = await writer.session([1, 2, 3, 4])
    branch = await writer.store.fork(session.id)
    await effects.replace(branch.id, "a", await effects.get(branch.id, "a"), b"1")
    await writer.store.delete_session(branch.id)
    assert (await effects.get(session.id, "a")).value == b"1"
    assert (await writer.store.check_integrity()).problems == []
    key = LineageKeys(writer.prefix, lineage_of(session.id)).effects
    assert raw.exists(key)
    await writer.store.delete_session(session.id)
    await writer.store.recover(older_than=0)
    assert not raw.exists(key)


async def test_what_is_no_session_has_no_records(writer):
    effects = writer.store.effects
    session = await writer.session([1, 2, 3, 4])
    seen = await effects.get(session.id, "a")
    await writer.store.delete_session(session.id)
    with pytest.raises(NotFound):
        await effects.replace(session.id, "a", seen, b"1")
    with pytest.raises(InvalidId):
        await effects.get("nobody", "a")


async def test_records_of_an_encrypted_tenant_are_sealed_and_shredded(author, locked, prefix, raw):
    effects = author.store.effects
    session = await author.session("ann", TURN)
    await effects.replace(session.id, "a", await effects.get(session.id, "a"), b"paid ann 100")
    assert (await effects.get(session.id, "a")).value == b"paid ann 100"
    with pytest.raises(VaultLocked):
        await locked.effects.get(session.id, "a")
    copies = everything(raw, prefix)
    assert not any(b"paid ann" in dump for dump in copies.values())
    key = LineageKeys(prefix, lineage_of(session.id)).effects
    ((field, stored),) = raw.hgetall(key).items()
    assert field != b"a"  # its name would tell what was done
    await effects.replace(session.id, "b", await effects.get(session.id, "b"), b"paid bob 1")
    (other,) = {*raw.hkeys(key)} - {field}
    raw.hset(key, other, stored)  # sealed for its own place
    with pytest.raises(CorruptObject):
        await effects.get(session.id, "b")
    await author.store.delete_session(session.id)
    await author.store.recover(older_than=0)
    assert not raw.exists(key)
