"""Files that go with a session: kept with its snapshots, shared, counted, and let go with them."""

import hashlib
from dataclasses import replace

import pytest
from sealing import TURN, everything
from writer import TENANT, commit

from state_store.errors import (
    CorruptObject,
    FilesMissing,
    InvalidArgument,
    NotFound,
    QuotaExceeded,
)
from state_store.files import BLOB_BYTES, TTL, FileSet
from state_store.layout import LineageKeys, lineage_of
from state_store.quotas import Quota


async def keep(store, session, *contents: bytes) -> str:
    names = await store.files.put(session, contents)
    return await store.files.put_set(session, FileSet(b"body", tuple(names)))


async def turn(writer, session, tokens, files=None):
    draft = replace(await writer.draft(session.id, tokens), files=files)
    writer.put(draft)
    return (await commit(writer.store, draft)).snapshot


def set_bytes(sizes: str) -> int:
    """Of a set with contents of such sizes, as it is stored: body, names twice, and sizes."""
    names = 65 * len(sizes.split()) - 1
    return len(b"body") + 2 * names + len(sizes)


def blob_key(writer, session, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return LineageKeys(writer.prefix, lineage_of(session.id)).blob(digest)


async def contents(store, session, snapshot) -> list[bytes]:
    files = await store.files.get_set(session, snapshot.files)
    assert files.body == b"body"
    return [await store.files.get(session, one) for one in files.blobs]


async def test_files_go_with_the_snapshots_of_a_history(writer, raw):
    store = writer.store
    session = await writer.session()
    first = await turn(writer, session, range(8), await keep(store, session, b"one", b"two"))
    second = await turn(writer, session, range(8), await keep(store, session, b"one", b"three"))
    await store.files.require(session, second.files)
    third = await turn(writer, session, range(8))  # names none: those of the turn before
    counted = [first.file_bytes, second.file_bytes, third.file_bytes]
    assert counted == [6 + set_bytes("3 3"), 5 + set_bytes("3 5"), 0]
    assert third.files == second.files
    assert await contents(store, session, first) == [b"one", b"two"]
    fork = await store.fork(session.id, snapshot_id=first.id)
    assert await contents(store, fork, first) == [b"one", b"two"]
    keys = LineageKeys(writer.prefix, lineage_of(session.id))
    assert {raw.ttl(key) for key in raw.scan_iter(f"{keys.blob('')}*", count=1000)} == {-1}
    report = await store.usage_report(TENANT)
    assert report.file_bytes == sum(counted)
    assert await writer.problems() == []

    await writer.rewind(session.id, first.id)
    assert await contents(store, session, first) == [b"one", b"two"]
    lonely = keys.blob((await store.files.put(session, [b"three"]))[0])
    assert raw.ttl(lonely) > 0  # nothing holds it any more
    assert await store.files.missing(session, ["ab" * 32]) == ["ab" * 32]
    assert await writer.problems() == []
    for one in (session, fork):
        await store.delete_session(one.id)
    left = [*raw.scan_iter(f"{keys.blob('')}*"), *raw.scan_iter(f"{keys.files('')}*")]
    assert len(left) == 5
    assert all(raw.ttl(key) > 0 for key in left)
    assert not raw.exists(keys.held_files)


async def test_a_content_that_is_too_large_is_refused_with_all_that_came_with_it(writer, raw):
    session = await writer.session(range(8))
    largest = b"x" * BLOB_BYTES
    with pytest.raises(InvalidArgument, match="nothing was"):
        await writer.store.files.put(session, [b"one", largest + b"x"])
    assert not [*raw.scan_iter(f"{LineageKeys(writer.prefix, lineage_of(session.id)).blob('')}*")]
    (name,) = await writer.store.files.put(session, [largest])
    assert await writer.store.files.get(session, name) == largest


async def test_nothing_is_committed_with_files_that_are_not_there(writer, raw):
    session = await writer.session(range(8))
    named = await keep(writer.store, session, b"one")
    keys = LineageKeys(writer.prefix, lineage_of(session.id))
    (blob,) = raw.scan_iter(f"{keys.blob('')}*", count=1000)
    raw.delete(blob)
    with pytest.raises(FilesMissing, match="nothing was committed"):
        await turn(writer, session, range(8), named)
    with pytest.raises(FilesMissing):
        await turn(writer, session, range(8), "12" * 32)
    with pytest.raises(FilesMissing):
        await writer.store.files.require(session, named)
    assert (await writer.store.session(session.id)).head == session.head
    assert await writer.problems() == []
    with pytest.raises(FilesMissing) as missing:
        await writer.store.files.put_set(session, FileSet(b"", ("34" * 32,)))
    assert missing.value.names == ["34" * 32]


async def test_nothing_is_committed_with_new_files_that_other_snapshots_hold_and_are_lost(
    writer, raw
):
    session = await writer.session(range(8))
    fork = await writer.store.fork(session.id)
    named = await keep(writer.store, session, b"one")
    await turn(writer, session, range(8), named)
    await writer.store.files.require(fork, named)
    raw.delete(blob_key(writer, session, b"one"))
    with pytest.raises(FilesMissing):
        await writer.store.files.require(fork, named)
    with pytest.raises(FilesMissing):
        await turn(writer, fork, range(8), named)
    assert (await writer.store.session(fork.id)).head == fork.head
    await turn(writer, session, range(8))  # what it has lost stops nobody who asks for nothing new


async def test_held_files_that_were_lost_and_are_sent_again_stay(writer, raw):
    session = await writer.session()
    snapshot = await turn(
        writer, session, range(8), await keep(writer.store, session, b"one", b"two")
    )
    keys = LineageKeys(writer.prefix, lineage_of(session.id))
    place = keys.files(snapshot.files)
    held = [blob_key(writer, session, b"one"), blob_key(writer, session, b"two"), place]
    raw.delete(held[0], place)
    raw.expire(held[1], 100)
    await keep(writer.store, session, b"one", b"two")
    assert [raw.ttl(key) for key in held] == [-1] * 3
    raw.expire(held[1], 100)
    await writer.store.files.require(session, snapshot.files)
    assert raw.ttl(held[1]) == -1
    assert await contents(writer.store, session, snapshot) == [b"one", b"two"]
    assert await writer.problems() == []


async def test_turns_that_say_the_same_with_other_files_are_other_snapshots(writer):
    session = await writer.session(range(8))
    fork = await writer.store.fork(session.id)
    one = await turn(writer, session, range(8), await keep(writer.store, session, b"one"))
    two = await turn(writer, fork, range(8), await keep(writer.store, fork, b"two"))
    assert one.id != two.id
    assert await contents(writer.store, fork, two) == [b"two"]
    again = await writer.store.fork(session.id, snapshot_id=session.head)
    same = await turn(writer, again, range(8), await keep(writer.store, again, b"one"))
    assert same.id == one.id
    assert await writer.problems() == []


async def test_files_count_for_quotas(writer, raw):
    session = await writer.session(range(8))
    used = (await writer.store.snapshot(session.head)).device_bytes
    draft = await writer.draft(session.id, range(8))
    writer.put(draft)
    more = (await commit(writer.store, draft)).snapshot.device_bytes
    limit = used + 2 * more + set_bytes("101") + 100
    await writer.store.set_quota(TENANT, Quota(bytes=limit))
    with pytest.raises(QuotaExceeded):
        await turn(writer, session, range(8), await keep(writer.store, session, bytes(101)))
    raw.delete(LineageKeys(writer.prefix, lineage_of(session.id)).loose_files)  # they have expired
    await turn(writer, session, range(8), await keep(writer.store, session, bytes(99)))
    with pytest.raises(QuotaExceeded):
        await turn(writer, session, range(8))


async def test_files_that_no_turn_has_committed_count_for_the_quota_as_long_as_they_live(
    writer, raw
):
    store = writer.store
    session = await writer.session(range(8))
    used = (await store.snapshot(session.head)).device_bytes
    await store.set_quota(TENANT, Quota(bytes=2 * used + 5000))
    await keep(store, session, bytes(2000))
    for _ in range(2):  # what is there adds nothing
        await keep(store, session, bytes(2000))
    with pytest.raises(QuotaExceeded):
        await store.files.put(session, [bytes(used + 4000)])
    with pytest.raises(QuotaExceeded):
        await store.files.put_set(session, FileSet(bytes(used + 4000), ()))
    await store.files.put(session, [b"3" * (used + 2800)])
    with pytest.raises(QuotaExceeded):
        await store.files.put(session, [b"4" * 2000])
    with pytest.raises(QuotaExceeded):
        await turn(writer, session, range(8))
    big = blob_key(writer, session, b"3" * (used + 2800))
    keys = LineageKeys(writer.prefix, lineage_of(session.id))
    raw.delete(big)
    raw.hset(keys.loose_files, f"blob:{big.rpartition(':')[2]}", f"1:{used + 2800}")  # ran out
    await turn(writer, session, range(8), await keep(store, session, bytes(2000)))
    assert await writer.problems() == []


async def test_effects_count_for_quotas_and_usage(writer, raw):
    effects = writer.store.effects
    session = await writer.session(range(8))
    for value in (b"1" * 1000, b"2" * 500):
        await effects.replace(session.id, "a", await effects.get(session.id, "a"), value)
    report = await writer.store.usage_report(TENANT)
    assert report.effect_bytes == raw.hstrlen(
        LineageKeys(writer.prefix, lineage_of(session.id)).effects, "a"
    )
    used = (await writer.store.snapshot(session.head)).device_bytes
    await writer.store.set_quota(TENANT, Quota(bytes=2 * used + 400))
    with pytest.raises(QuotaExceeded):
        await turn(writer, session, range(8))
    assert await writer.problems() == []


async def test_an_effect_beyond_the_quota_is_refused_at_its_beginning_and_never_at_its_end(writer):
    effects = writer.store.effects
    session = await writer.session(range(8))
    used = (await writer.store.snapshot(session.head)).device_bytes
    await writer.store.set_quota(TENANT, Quota(bytes=used + 1000))
    nothing = await effects.get(session.id, "a")
    with pytest.raises(QuotaExceeded):
        await effects.replace(session.id, "a", nothing, bytes(1001))
    assert await effects.all(session.id) == []
    assert await effects.replace(session.id, "a", nothing, bytes(500))
    with pytest.raises(QuotaExceeded):
        await effects.replace(session.id, "b", await effects.get(session.id, "b"), bytes(500))
    begun = await effects.get(session.id, "a")
    assert await effects.replace(session.id, "a", begun, bytes(2000), happened=True)
    assert await effects.replace(session.id, "a", await effects.get(session.id, "a"), bytes(400))
    assert await effects.replace(session.id, "b", await effects.get(session.id, "b"), bytes(100))
    assert await writer.problems() == []


async def test_files_of_an_encrypted_tenant_are_sealed_and_shredded(author, prefix, raw):
    store = author.store
    session = await author.session("ann", TURN)
    named = await keep(store, session, b"the secret plan")
    blob = (await store.files.put(session, [b"the secret plan"]))[0]
    draft = replace(await author.draft(session.id, TURN), files=named)
    await author.put(draft)
    snapshot = (await commit(store, draft)).snapshot
    assert await contents(store, session, snapshot) == [b"the secret plan"]
    copies = everything(raw, prefix)
    assert not any(b"secret plan" in dump for dump in copies.values())
    assert not any(blob.encode() in key + dump for key, dump in copies.items())
    await store.delete_session(session.id)
    keys = LineageKeys(prefix, lineage_of(session.id))
    assert not [*raw.scan_iter(f"{keys.blob('')}*"), *raw.scan_iter(f"{keys.files('')}*")]


@pytest.mark.parametrize("tenant", ["plain", "ann"])
async def test_what_a_turn_begins_with_stays_for_it_when_its_holder_is_deleted(
    author, prefix, raw, tenant
):
    store = author.store
    holder = await author.session(tenant, TURN)
    fork = await store.fork(holder.id)
    wanted = await keep(store, holder, b"one", b"two")
    unwanted = await keep(store, holder, b"two", b"three")
    for named in (wanted, unwanted):
        await author.put(draft := replace(await author.draft(holder.id, TURN), files=named))
        await commit(store, draft)
    await store.files.require(fork, wanted)
    await store.delete_session(holder.id)
    keys = LineageKeys(prefix, lineage_of(fork.id))
    assert 3000 < raw.ttl(keys.files(wanted)) <= TTL
    assert raw.exists(keys.files(unwanted)) == (tenant == "plain")
    await author.put(draft := replace(await author.draft(fork.id, TURN), files=wanted))
    snapshot = (await commit(store, draft)).snapshot
    assert await contents(store, fork, snapshot) == [b"one", b"two"]
    await store.delete_session(fork.id)
    left = [*raw.scan_iter(f"{keys.files('')}*"), *raw.scan_iter(f"{keys.blob('')}*")]
    assert bool(left) == (tenant == "plain")
    assert not raw.exists(keys.wanted_files)


async def test_a_session_that_is_gone_keeps_no_files(writer):
    session = await writer.session(range(8))
    await writer.store.delete_session(session.id)
    with pytest.raises(NotFound):
        await writer.store.files.put(session, [b"one"])
    with pytest.raises(NotFound):
        await writer.store.files.missing(session, ["ab" * 32])


async def test_what_is_wrong_with_files_is_found_and_mended_where_it_can_be(writer, raw):
    store = writer.store
    session = await writer.session()
    snapshot = await turn(writer, session, range(8), await keep(store, session, b"one", b"two"))
    keys = LineageKeys(writer.prefix, lineage_of(session.id))
    one, two = (await store.files.get_set(session, snapshot.files)).blobs

    raw.hset(keys.held_files, f"blob:{one}", 7)
    raw.hdel(keys.held_files, f"files:{snapshot.files}")
    raw.expire(keys.blob(two), 1000)
    found = {problem.kind for problem in (await store.check_integrity()).problems}
    assert found == {"file-references", "file-expires"}
    report = await store.check_integrity(repair=True)
    assert report.problems == []
    assert raw.hget(keys.held_files, f"blob:{one}") == b"1"
    assert raw.ttl(keys.blob(two)) == -1

    raw.hset(keys.held_files, f"blob:{'56' * 32}", 1)
    assert (await store.check_integrity(repair=True)).problems == []

    raw.set(keys.blob(one), b"other")
    raw.delete(keys.blob(two))
    report = await store.check_integrity(repair=True)
    assert {problem.kind for problem in report.problems} == {"file-damaged", "file-missing"}
    with pytest.raises(CorruptObject):
        await store.files.get(session, one)
    with pytest.raises(FilesMissing):
        await store.files.get(session, two)


async def test_a_set_that_both_snapshots_of_a_commit_name_is_held_by_each(writer, raw):
    store = writer.store
    session = await writer.session(range(8), range(8))
    named = await keep(store, session, b"one", b"two")
    first = replace(await writer.instead_of(session, 1, range(12)), files=named)
    draft = await writer.going_on(first, range(8))
    for one in draft.chain:
        writer.put(one)
    last = (await commit(store, draft)).snapshot
    between = await store.snapshot(last.parent)
    assert (between.files, last.files) == (named, named)
    assert (between.file_bytes, last.file_bytes) == (6 + set_bytes("3 3"), 0)
    assert last.parent == await store.identify(first)
    assert await writer.problems() == []
    await writer.rewind(session.id, between.id)
    assert await contents(store, session, between) == [b"one", b"two"]
    assert await writer.problems() == []
    await store.delete_session(session.id)
    assert not raw.exists(LineageKeys(writer.prefix, lineage_of(session.id)).held_files)
