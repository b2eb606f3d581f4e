"""What an encrypted tenant stores is its alone, and no copy can be read once it is let go."""

from __future__ import annotations

import hashlib
import secrets
from array import array
from dataclasses import replace

import msgpack
import pytest
from author import FINGERPRINT, RANKS, Author, refs_of
from sealing import NEXT, TURN, everything, opened, put_back

from state_store import garbage
from state_store.archive import open_archive
from state_store.archive.archivist import Archivist
from state_store.errors import (
    CorruptObject,
    HeadMoved,
    InvalidKey,
    ObjectsMissing,
    VaultLocked,
)
from state_store.layout import LineageKeys, ObjectNames, TenantKeys, lineage_of
from state_store.objects import ObjectClient
from state_store.payloads import Outcome
from state_store.records import Tenant

# ---- encrypted ------------------------------------------------------------------


async def test_an_encrypted_session_is_written_committed_forked_and_read_elsewhere(
    author, server, objects, prefix
):
    session = await author.session("ann", TURN, meta={"system": "be brief"})
    branch = await author.store.fork(session.id)
    await author.turn(branch.id, NEXT)
    early = await author.store.fork(branch.id, snapshot_id=session.head)
    async with await opened(server, prefix) as store:
        other = Author(store, objects, prefix)
        assert (await store.session(session.id)).body.meta == {"system": "be brief"}
        assert [one.body.meta for one in await store.sessions("ann")] == [
            {"system": "be brief"}
        ] * 3
        branch = await store.session(branch.id)
        history = await store.ancestors(branch.head)
        assert [one.meta for one in history] == [{"note": "written by the author"}] * 2
        assert (await store.snapshot(branch.head)).meta == {"note": "written by the author"}
        assert await store.tokens(branch.head) == array("I", [*TURN, *NEXT])
        assert await store.tokens(early.head) == array("I", TURN)
        assert set(await other.read(branch, history)) == {Outcome.OK}
        commit = await other.turn(early.id, NEXT)
        assert commit.snapshot.id == branch.head  # equal histories are one snapshot
        assert commit.snapshot.meta == {"note": "written by the author"}
        assert (await store.check_integrity()).problems == []


async def test_no_value_in_the_store_shows_what_an_encrypted_tenant_stores(author, raw, prefix):
    session = await author.session("ann", TURN, meta={"system": "a secret prompt"})
    clear = await author.session("cleo", TURN, meta={"system": "a secret prompt"})
    log = array("I", TURN).tobytes()
    needles = [log, log[:16], b"secret prompt", b"written by the author"]
    values = {}
    for key in raw.scan_iter(f"{prefix}:*"):
        kind = raw.type(key).decode()
        values[key] = {
            "string": lambda key=key: [raw.get(key)],
            "hash": lambda key=key: [v for pair in raw.hgetall(key).items() for v in pair],
            "set": lambda key=key: list(raw.smembers(key)),
            "zset": lambda key=key: raw.zrange(key, 0, -1),
        }[kind]()
    own = {key: found for key, found in values.items() if lineage_of(session.id).encode() in key}
    assert len(own) > 3
    for needle in needles:
        assert not any(needle in value for found in own.values() for value in found)
        in_the_clear = [k for k, found in values.items() if any(needle in v for v in found)]
        assert in_the_clear
        assert all(lineage_of(clear.id).encode() in key for key in in_the_clear)
    salt = await author.store.salt(session)
    assert not any(salt.encode() in value for found in values.values() for value in found)


async def test_a_snapshots_id_does_not_let_a_guess_at_its_tokens_be_tested(author):
    def guessed(session, snapshot) -> str:
        identity = [
            lineage_of(session.id), snapshot.parent, snapshot.total_tokens, snapshot.boundary,
            snapshot.fingerprint_id, snapshot.ranks, snapshot.page_chain, snapshot.checkpoints,
            hashlib.sha256(array("I", TURN).tobytes()).digest(),
        ]  # fmt: skip
        return hashlib.sha256(msgpack.packb(identity)).hexdigest()[:32]

    clear = await author.session("cleo", TURN)
    assert clear.head.endswith(guessed(clear, await author.store.snapshot(clear.head)))
    hidden = await author.session("ann", TURN)
    assert not hidden.head.endswith(guessed(hidden, await author.store.snapshot(hidden.head)))


async def test_without_the_master_key_reading_is_refused_and_deleting_is_not(
    author, locked, raw, prefix
):
    session = await author.session("ann", TURN)
    draft = await author.draft(session.id, NEXT)
    await author.put(draft)
    lease = await locked.acquire(session.id, ttl=30, owner="locked")
    for reading in (
        lambda: locked.session(session.id),
        lambda: locked.sessions("ann"),
        lambda: locked.snapshot(session.head),
        lambda: locked.ancestors(session.head),
        lambda: locked.tokens(session.head),
        lambda: locked.salt(session),
        lambda: locked.stored_form(session),
        lambda: locked.fork(session.id),
        lambda: locked.create_session(tenant="ann", fingerprint=FINGERPRINT),
        lambda: locked.commit(draft, lease=lease, durability="memory"),
        lambda: locked.create_tenant("dora", encrypted=True),
    ):
        with pytest.raises(VaultLocked):
            await reading()
    assert await locked.residency(session.id) == "stored"
    assert (await locked.check_integrity()).problems == []
    await locked.delete_session(session.id)
    assert not [key for key in raw.keys(f"{prefix}:seed:*") if raw.ttl(key) < 0]


async def test_equal_histories_of_two_tenants_share_nothing_and_neither_opens_the_others(
    author, server, raw, prefix
):
    ann, ben = await author.session("ann", TURN), await author.session("ben", TURN)
    of_ann, of_ben = await author.store.snapshot(ann.head), await author.store.snapshot(ben.head)
    assert not {*of_ann.page_chain} & {*of_ben.page_chain}

    reads = await author.read(ben, [of_ann])  # with Ben's key under Ann's names
    assert set(reads) == {Outcome.CORRUPT}
    stolen = Tenant.unpack(raw.get(TenantKeys(prefix, "ann").record)).wrapped_key
    own = Tenant.unpack(raw.get(TenantKeys(prefix, "ben").record))
    forged = own.model_copy(update={"wrapped_key": stolen})
    raw.set(TenantKeys(prefix, "ben").record, forged.pack())
    async with await opened(server, prefix) as store:
        with pytest.raises(InvalidKey):
            await store.salt(ben)


async def test_a_sealed_value_that_is_moved_to_another_place_is_not_taken(
    author, server, raw, prefix
):
    session = await author.session("ann", TURN, NEXT)
    head = await author.store.snapshot(session.head)
    keys = LineageKeys(prefix, lineage_of(session.id))
    raw.copy(keys.tokens(head.parent), keys.tokens(head.id), replace=True)
    async with await opened(server, prefix) as store:
        with pytest.raises(CorruptObject, match="authentication tag"):
            await store.tokens(head.id)


# ---- shredded -------------------------------------------------------------------


async def test_after_its_session_is_deleted_no_copy_of_it_can_be_read(author, server, raw, prefix):
    session = await author.session("ann", TURN)
    kept = await author.session("ann", NEXT)
    history = await author.store.ancestors(session.head)
    copies = everything(raw, prefix)
    await author.store.delete_session(session.id)

    left = [raw.keys(f"{prefix}:{kind}:*") for kind in ("kv", "state", "seed")]
    of_kept = await author.store.snapshot(kept.head)
    assert [len(keys) for keys in left] == [2 * RANKS, RANKS, 3]  # what the other session holds
    assert not raw.exists(LineageKeys(prefix, lineage_of(session.id)).seed)

    put_back(raw, copies, b"seed")
    async with await opened(server, prefix) as store:
        elsewhere = Author(store, author.client, prefix)
        assert set(await elsewhere.read(kept, history)) == {Outcome.MISSING}
        for reading in (store.session(session.id), store.tokens(session.head)):
            with pytest.raises(CorruptObject, match="seed"):
                await reading
        assert set(await elsewhere.read(kept, [of_kept])) == {Outcome.OK}
        assert list(await store.tokens(kept.head)) == [*NEXT]


async def test_what_another_session_reaches_outlives_the_deletion(author, raw, prefix):
    session = await author.session("ann", TURN)
    twin = await author.session("ann", [*TURN, *NEXT])  # another lineage with the same first pages
    branch = await author.store.fork(session.id)
    await author.turn(branch.id, NEXT)
    await author.store.delete_session(session.id)
    await author.store.delete_session(twin.id)
    branch = await author.store.session(branch.id)
    history = await author.store.ancestors(branch.head)
    assert set(await author.read(branch, history)) == {Outcome.OK}
    assert list(await author.store.tokens(branch.head)) == [*TURN, *NEXT]
    assert all(raw.ttl(key) == -1 for key in raw.keys(f"{prefix}:seed:*"))
    assert (await author.store.check_integrity()).problems == []
    await author.store.delete_session(branch.id)
    assert not raw.keys(f"{prefix}:seed:*") + raw.keys(f"{prefix}:kv:*")


async def test_a_deleted_session_in_the_clear_keeps_its_grace(author, raw, prefix):
    session = await author.session("cleo", TURN)
    await author.store.delete_session(session.id)
    left = raw.keys(f"{prefix}:kv:*")
    assert left
    assert all(0 < raw.ttl(key) <= 60 for key in left)


async def test_a_commit_that_is_refused_leaves_its_objects_to_be_committed_after_all(
    author, raw, prefix
):
    session = await author.session("ann", TURN)
    draft = await author.draft(session.id, NEXT)
    await author.put(draft)
    with pytest.raises(HeadMoved):
        await author.commit(replace(draft, parent=None, new_tokens=array("I", [*TURN, *NEXT]),
                                    page_hashes=await _all_pages(author, draft)))  # fmt: skip
    name = ObjectNames(prefix, FINGERPRINT.id, 0)
    ref = refs_of(draft)[0]
    assert 0 < raw.ttl(name.key(ref)) <= 60 < raw.ttl(name.seed_key(ref)) <= 120
    await author.commit(draft)
    assert raw.ttl(name.key(ref)) == raw.ttl(name.seed_key(ref)) == -1


async def _all_pages(author, draft) -> tuple[str, ...]:
    parent = await author.store.snapshot(draft.parent)
    return (*parent.page_chain, *draft.page_hashes)


@pytest.mark.parametrize("loss", ["seed destroyed", "seed made anew"])
async def test_an_object_under_a_destroyed_seed_is_not_committed_but_cleared_away(
    author, raw, prefix, loss
):
    session = await author.session("ann")
    draft = await author.draft(session.id, TURN)
    await author.put(draft)
    ref = refs_of(draft)[1]
    names = ObjectNames(prefix, FINGERPRINT.id, 0)
    raw.delete(names.seed_key(ref))
    if loss == "seed made anew":
        raw.set(names.seed_key(ref), secrets.token_bytes(20), ex=600)
    with pytest.raises(ObjectsMissing) as caught:
        await author.commit(draft)
    assert caught.value.missing == ((*ref,),)
    assert not raw.exists(names.key(ref))
    await author.put(draft)
    commit = await author.commit(draft)
    assert set(await author.read(session, [commit.snapshot])) == {Outcome.OK}
    assert (await author.store.check_integrity()).problems == []


async def test_an_object_that_others_hold_is_not_cleared_away(author, raw, prefix):
    session = await author.session("ann", TURN)
    (first, *_) = (await author.store.snapshot(session.head)).objects
    names = ObjectNames(prefix, FINGERPRINT.id, 0)
    raw.set(names.seed_key(first), secrets.token_bytes(20))
    twin = await author.session("ann")
    draft = await author.draft(twin.id, TURN)
    with pytest.raises(ObjectsMissing):
        await author.commit(draft)
    assert raw.exists(names.key(first))


async def test_letting_go_twice_spares_what_was_stored_anew_in_between(author, raw, prefix):
    """As when the reply to the first was lost."""
    session = await author.session("ann", TURN)
    snapshot = await author.store.snapshot(session.head)
    await author.store.delete_session(session.id)
    again = await author.session("ann")
    draft = await author.draft(again.id, TURN)
    await author.put(draft)
    await garbage.unpin(author.store._control, prefix, snapshot, "sent again", shred=True)
    commit = await author.commit(draft)
    assert set(await author.read(again, [commit.snapshot])) == {Outcome.OK}


async def test_archived_ciphertext_is_read_held_again_and_shredded(
    author, server, raw, prefix, tmp_path
):
    author.archive = open_archive(f"file://{tmp_path}")
    session = await author.session("ann", TURN)
    history = await author.store.ancestors(session.head)
    client = ObjectClient(server.url, timeout=5.0)
    archivist = Archivist(author.store._control, prefix, client, author.archive)
    await archivist.move_out(history)
    assert not raw.keys(f"{prefix}:kv:*")
    assert set(await author.read(session, history)) == {Outcome.OK}

    twin = await author.session("ann")
    draft = await author.draft(twin.id, TURN)
    seed = ObjectNames(prefix, FINGERPRINT.id, 0).seed_key(refs_of(draft)[0])
    kept = raw.getdel(seed)
    with pytest.raises(ObjectsMissing):  # nobody could read what it would hold
        await author.commit(draft)
    raw.set(seed, kept)
    await author.commit(draft)  # without storing anything again
    await author.store.delete_session(session.id)
    assert set(await author.read(twin, history)) == {Outcome.OK}
    copies = everything(raw, prefix)
    await author.store.delete_session(twin.id)
    put_back(raw, copies, b"seed")
    assert any(path.is_file() for path in tmp_path.rglob("*"))
    assert set(await author.read(twin, history)) == {Outcome.MISSING}
    archivist.close()
    client.close()
