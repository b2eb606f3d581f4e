"""What one damaged record, or a clock that is wrong, must not keep others from."""

import time

import pytest
from writer import TENANT

from state_store import commit as committing
from state_store.errors import CorruptObject
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.store import StateStore


async def test_recovery_does_its_other_work_past_what_it_cannot_read(writer, raw, prefix):
    session = await writer.session([1, 2, 3])
    labels = TenantKeys(prefix, TENANT).label("a", "1")
    raw.zadd(labels, {session.id: 1})  # a label that the session does not carry
    raw.sadd(f"{prefix}:lineages", b"\xff\xfe")
    raw.zadd(LineageKeys(prefix, lineage_of(session.id)).dead, {"of a wrong type": 1})
    await writer.store.recover(older_than=0)
    assert raw.zrange(labels, 0, -1) == []


async def test_a_runtime_whose_clock_is_ahead_leaves_the_commits_of_others_alone(
    writer, server, prefix, monkeypatch
):
    session = await writer.session([1, 2, 3, 4])
    draft = await writer.draft(session.id, [5, 6, 7, 8])
    writer.put(draft)
    pin_all, now = committing._pin_all, time.time

    async def recovered_meanwhile(*args):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: now() + 1000)
            async with await StateStore.connect(server.url, prefix=prefix) as other:
                await other.recover(older_than=60)
        await pin_all(*args)

    monkeypatch.setattr(committing, "_pin_all", recovered_meanwhile)
    lease = await writer.lease(session.id)
    done = await writer.store.commit(draft, lease=lease, durability="memory")
    assert (await writer.store.session(session.id)).head == done.snapshot.id
    assert await writer.problems() == []


@pytest.mark.parametrize("field", ["body", "head"])
@pytest.mark.parametrize("damaged", [b"\xc1\x00", b"{}", b"snp-" + b"0" * 16 + b"-" + b"0" * 32])
async def test_a_session_that_cannot_be_read_says_so_and_is_left_out_of_lists(
    writer, raw, prefix, field, damaged
):
    sessions = [await writer.session([number]) for number in (1, 2)]
    session_id = sessions[0].id
    keys = LineageKeys(prefix, lineage_of(session_id))
    raw.hset(keys.session(session_id), field, damaged)
    with pytest.raises(CorruptObject, match=session_id):
        await writer.store.session(session_id)
    listed = [one.id for one in await writer.store.sessions(TENANT)]
    assert listed == [sessions[1].id]
    if field == "body":  # nobody has got the lease, so nobody keeps it
        with pytest.raises(CorruptObject):
            await writer.lease(session_id)
        assert await writer.store.writer(session_id) is None
