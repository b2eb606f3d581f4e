"""Tenants: what they store is theirs alone, and gone when they or their sessions are deleted."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from array import array
from dataclasses import replace

import msgpack
import pytest
import redis
from author import FINGERPRINT, RANKS, Author, refs_of
from writer import Trips

from state_store import garbage
from state_store.archive import open_archive
from state_store.archive.archivist import Archivist
from state_store.encodings import ECONOMIES, LOSSLESS
from state_store.errors import (
    CorruptObject,
    HeadMoved,
    InvalidDraft,
    InvalidKey,
    NotFound,
    ObjectsMissing,
    StoreError,
    TenantDeleted,
    TenantExists,
    UnknownEconomy,
    VaultLocked,
)
from state_store.layout import LineageKeys, ObjectNames, TenantKeys, lineage_of
from state_store.lineages import Lineage
from state_store.objects import ObjectClient
from state_store.payloads import Outcome
from state_store.quotas import Quota
from state_store.records import Tenant
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault

OLD, NEW = MasterKey(bytes(range(32))), MasterKey(bytes(range(1, 33)))
VAULT = Vault([OLD])
TURN, NEXT = range(100, 110), range(200, 208)


def opened(server, prefix, vault: Vault | None = VAULT):
    return StateStore.connect(server.url, prefix=prefix, vault=vault)


@pytest.fixture
async def author(server, objects, prefix):
    async with await opened(server, prefix) as store:
        await store.create_tenant("ann", encrypted=True)
        await store.create_tenant("ben", encrypted=True)
        yield Author(store, objects, prefix)


@pytest.fixture
async def locked(server, prefix, author):
    """A store in a process without the master key."""
    async with await opened(server, prefix, None) as store:
        yield store


def everything(raw, prefix: str) -> dict[bytes, bytes]:
    """Every key of the store and a dump of its value."""
    return {key: raw.dump(key) for key in raw.scan_iter(f"{prefix}:*", count=1000)}


def put_back(raw, copies: dict[bytes, bytes], *but: bytes) -> None:
    """Everything that was copied, but keys with one of these words in them."""
    for key, dump in copies.items():
        if not any(word in key for word in but):
            raw.restore(key, 0, dump, replace=True)


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
    assert await locked.boundary_is_stored(session.head)
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


# ---- economy classes ------------------------------------------------------------


@pytest.mark.parametrize("economy", ECONOMIES)
@pytest.mark.parametrize("tenant", ["ann", "cleo"])
async def test_a_session_keeps_its_class_through_forks_and_reads_back(author, economy, tenant):
    session = await author.session(tenant, TURN, economy=economy)
    branch = await author.store.fork(session.id)
    commit = await author.turn(branch.id, NEXT)
    assert branch.body.economy == commit.snapshot.economy == economy
    history = await author.store.ancestors(commit.snapshot.id)
    assert set(await author.read(branch, history)) == {Outcome.OK}
    assert (await author.store.check_integrity()).problems == []


async def test_a_tenants_class_is_that_of_its_sessions(author):
    await author.store.create_tenant("eve", economy="kv-fp8")
    assert (await author.session("eve", TURN)).body.economy == "kv-fp8"
    assert (await author.session("eve", TURN, economy=LOSSLESS)).body.economy == LOSSLESS
    with pytest.raises(UnknownEconomy):
        await author.store.create_tenant("finn", economy="tiny")
    with pytest.raises(UnknownEconomy):
        await author.session("eve", economy="tiny")


async def test_classes_of_one_tenant_share_no_object(author, raw, prefix):
    chains = []
    for economy in ECONOMIES:
        session = await author.session("cleo", TURN, economy=economy)
        chains.append({*(await author.store.snapshot(session.head)).page_chain})
    assert len(set.union(*chains)) == sum(map(len, chains))
    assert len(raw.keys(f"{prefix}:kv:*")) == len(ECONOMIES) * 2 * RANKS


async def test_a_draft_of_another_class_than_its_session_is_refused(author):
    for written, wanted in (("compact", LOSSLESS), (LOSSLESS, "compact")):
        session = await author.session("cleo", TURN, economy=wanted)
        draft = replace(await author.draft(session.id, NEXT), economy=written)
        await author.put(draft)
        with pytest.raises(InvalidDraft, match=f"class {wanted}"):
            await author.commit(draft)
        assert (await author.store.session(session.id)).head == session.head


# ---- tenants --------------------------------------------------------------------


async def test_a_tenant_is_created_once(author):
    with pytest.raises(TenantExists):
        await author.store.create_tenant("ann")
    await author.store.tenant("cleo")  # made at first use
    with pytest.raises(TenantExists):
        await author.store.create_tenant("cleo", encrypted=True)
    assert not (await author.store.tenant("cleo")).encrypted
    assert (await author.store.tenant("ann")).encrypted


async def test_a_deleted_tenant_leaves_no_session_no_key_and_no_object(author, server, raw, prefix):
    session = await author.session("ann", TURN)
    branch = await author.store.fork(session.id)
    other = await author.session("ben", TURN)
    await author.turn(branch.id, NEXT)
    copies = everything(raw, prefix)
    assert await author.store.delete_tenant("ann") == 2

    for gone in (session, branch):
        with pytest.raises(NotFound):
            await author.store.session(gone.id)
    record = Tenant.unpack(raw.get(TenantKeys(prefix, "ann").record))
    assert (record.deleted, record.wrapped_key, record.salt) == (True, None, "")
    assert len(raw.keys(f"{prefix}:seed:*")) == 3
    history = await author.store.ancestors(other.head)
    assert set(await author.read(other, history)) == {Outcome.OK}
    assert (await author.store.check_integrity()).problems == []

    # All else is put back, seeds included: without the record it is of no use.
    put_back(raw, copies, b":record")
    async with await opened(server, prefix) as store:
        for reading in (
            lambda: store.salt(session),
            lambda: store.stored_form(session),
            lambda: store.session(branch.id),
            lambda: store.tokens(session.head),
        ):
            with pytest.raises(TenantDeleted):
                await reading()


async def test_a_deleted_tenants_name_is_free_only_for_who_asks_for_it(
    author, server, objects, prefix
):
    async with await opened(server, prefix) as store:
        knows_it = Author(store, objects, prefix)
        first = await knows_it.session("ann", TURN)
        salt = await store.salt(first)
        await author.store.delete_tenant("ann")
        for use in (
            lambda: knows_it.session("ann"),
            lambda: store.tenant("ann"),
            lambda: author.store.tenant("ann"),
            lambda: author.session("ann"),
        ):
            with pytest.raises(TenantDeleted):
                await use()
        assert await author.store.sessions("ann") == []
        await author.store.create_tenant("ann", encrypted=True)
        again = await knows_it.session("ann", TURN)
        assert await store.salt(again) == await author.store.salt(again) != salt
        assert list(await author.store.tokens(again.head)) == [*TURN]
        with pytest.raises(TenantDeleted):
            await store.salt(first)


async def test_a_writer_that_knew_the_earlier_tenant_does_not_write_as_the_later(
    author, server, objects, prefix
):
    async with await opened(server, prefix) as store:
        knows_it = Author(store, objects, prefix)
        await store.tenant("ann")
        await author.store.delete_tenant("ann")
        await author.store.create_tenant("ann", economy="compact")
        with pytest.raises(TenantDeleted):
            await knows_it.session("ann")
        assert await author.store.sessions("ann") == []
        assert not (await knows_it.session("ann", TURN)).body.encrypted


async def test_a_reader_that_knew_the_earlier_tenant_reads_what_the_later_stores(
    author, server, prefix
):
    async with await opened(server, prefix) as store:
        await store.tenant("ann")
        await author.store.delete_tenant("ann")
        await author.store.create_tenant("ann", encrypted=True)
        session = await author.session("ann", TURN)
        assert await store.salt(session) == await author.store.salt(session)
        assert list(await store.tokens(session.head)) == [*TURN]


async def test_a_tenants_salt_and_key_are_in_no_repr(author):
    for name in ("ann", "cleo"):
        tenant = await author.store.tenant(name)
        shown = repr(tenant) + str(tenant)
        assert name in shown
        assert tenant.salt not in shown or not tenant.salt
        assert repr(tenant.wrapped_key)[2:-1] not in shown or not tenant.wrapped_key
    session = await author.session("ann", TURN)
    seals = await author.store._lineages.seals(Lineage.of(session.body))
    assert repr(seals) == "Seals(key=<LineageKey>)"


async def test_there_must_be_a_tenant_to_delete(author):
    with pytest.raises(NotFound):
        await author.store.delete_tenant("nobody")
    await author.store.delete_tenant("ann")
    assert await author.store.delete_tenant("ann") == 0


async def test_keys_are_wrapped_anew_and_the_old_master_key_can_go(author, server, objects, prefix):
    session = await author.session("ann", TURN)
    async with await opened(server, prefix, Vault([NEW, OLD])) as store:
        await store.rewrap_tenant("ann")
        await store.rewrap_tenant("cleo")  # has no key
    async with await opened(server, prefix, Vault([NEW])) as store:
        assert list(await store.tokens(session.head)) == [*TURN]
        with pytest.raises(VaultLocked):
            await store.sessions("ben") or await store.create_session(
                tenant="ben", fingerprint=FINGERPRINT
            )
    async with await opened(server, prefix, Vault([OLD])) as store:
        with pytest.raises(VaultLocked):
            await store.tokens(session.head)


async def test_deleting_a_tenant_has_the_servers_log_written_anew(own_server, prefix):
    client = ObjectClient(own_server.url, timeout=5.0)
    async with await opened(own_server, prefix) as store:
        await store.create_tenant("ann", encrypted=True)
        author = Author(store, client, prefix)
        session = await author.session("ann", TURN)
        with redis.Redis.from_url(own_server.url) as raw:
            seeds = [raw.get(key) for key in raw.keys(f"{prefix}:seed:*")]
            seeds.append(raw.get(LineageKeys(prefix, lineage_of(session.id)).seed))
            seeds.append((await store.tenant("ann")).wrapped_key)
            raw.waitaof(1, 0, 5000)
            assert all(seed in on_disk(own_server) for seed in seeds)
            await store.delete_tenant("ann")
            deadline = time.monotonic() + 60
            while any(seed in on_disk(own_server) for seed in seeds):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
    client.close()


def on_disk(server) -> bytes:
    content = b""
    for path in server.data_dir.rglob("*"):
        try:
            content += path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:  # a file of the log that a rewrite has just removed
            continue
    return content


# ---- races ----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two_processes(server, objects):
    """An author, and another store whose round trips can be disturbed."""
    prefix = f"t{secrets.token_hex(4)}"
    async with await opened(server, prefix) as store, await opened(server, prefix) as victim:
        await store.create_tenant("ann", encrypted=True)
        yield Author(store, objects, prefix), victim


@pytest.mark.parametrize("dying", [False, True])
async def test_a_session_made_while_its_tenant_is_deleted_does_not_stay(
    server, objects, raw, dying
):
    """Whoever makes it may die in the midst: then deleting the tenant once more removes it."""
    at, finished, late = 0, False, 0
    while not finished:
        at += 1
        async with two_processes(server, objects) as (author, victim):
            await victim.tenant("ann")
            parent = await author.session("ann", TURN)
            parent = await victim.session(parent.id)
            trips = Trips(victim)
            trips.between = (at, lambda author=author: author.store.delete_tenant("ann"))
            if dying:
                trips.crash_at = ("before", at + 2)
            with contextlib.suppress(StoreError):
                await victim.create_session(tenant="ann", fingerprint=FINGERPRINT)
            finished = trips.between is not None
            late += len(raw.keys(f"{author.prefix}:{{*}}:session:*"))
            if not finished:
                await author.store.delete_tenant("ann")
                assert raw.keys(f"{author.prefix}:{{*}}:session:*") == []
                assert raw.keys(f"{author.prefix}:*seed*") == []
                await author.store.create_tenant("ann")
                assert await author.store.sessions("ann") == []
    assert at > 4
    assert late > 1 if dying else late == 2  # the last round, undisturbed, leaves its two


async def test_recovery_removes_what_a_dying_writer_made_for_a_deleted_tenant(server, objects, raw):
    at, finished, late = 0, False, 0
    while not finished:
        at += 1
        async with two_processes(server, objects) as (author, victim):
            await victim.tenant("ann")
            trips = Trips(victim)
            trips.between = (at, lambda author=author: author.store.delete_tenant("ann"))
            trips.crash_at = ("before", at + 2)
            with contextlib.suppress(StoreError):
                await victim.create_session(tenant="ann", fingerprint=FINGERPRINT)
            finished = trips.between is not None
            if not finished:
                late += len(raw.keys(f"{author.prefix}:{{*}}:session:*"))
                sessions = TenantKeys(author.prefix, "ann").sessions
                for session_id in raw.zrange(sessions, 0, -1):  # as if it had been a while ago
                    raw.zadd(sessions, {session_id: 1.0})
                await author.store.recover(older_than=0)
                assert raw.keys(f"{author.prefix}:{{*}}:session:*") == []
                assert raw.keys(f"{author.prefix}:*seed*") == []
                record = TenantKeys(author.prefix, "ann").record.encode()
                assert raw.keys(f"{author.prefix}:{{tenant:ann}}:*") == [record]
    assert at > 4
    assert late > 0


async def test_of_a_deleted_tenant_nothing_is_left_but_that_it_was_deleted(
    author, locked, raw, prefix
):
    keys = TenantKeys(prefix, "ann")
    for tenant in ("ann", "ann.b"):
        session = await author.session(tenant, TURN, labels={"colour": "blue"})
        await author.store.set_labels(session.head, {"name": "before"})
        await author.store.set_quota(tenant, Quota(tokens=1000))
        await author.turn(session.id, NEXT)
        await author.store.notes.put(tenant, "answer", b"42", ttl=600)
    others = set(raw.keys(TenantKeys(prefix, "ann.b").pattern))
    assert {raw.type(key) for key in raw.keys(keys.pattern)} == {b"string", b"zset", b"hash"}
    await locked.delete_tenant("ann")
    assert raw.keys(keys.pattern) == [keys.record.encode()]
    assert set(raw.keys(TenantKeys(prefix, "ann.b").pattern)) == others
    assert (await author.store.check_integrity()).problems == []
    await author.store.create_tenant("ann")
    assert await author.store.quota("ann") == Quota()


async def test_a_tenant_whose_record_cannot_be_read_keeps_nobody_from_recovering(
    author, raw, prefix
):
    session = await author.session("ann", TURN)
    raw.set(TenantKeys(prefix, "ann").record, b"\x09")
    raw.zadd(f"{prefix}:{{tenant:no name}}:sessions", {"x": 1.0})
    await author.store.recover(older_than=0)
    assert raw.exists(LineageKeys(prefix, lineage_of(session.id)).session(session.id))


async def test_deleting_a_tenant_may_end_half_way_and_be_repeated(server, objects, raw):
    for when in ("before", "after"):
        at, finished = 0, False
        while not finished:
            at += 1
            async with two_processes(server, objects) as (author, victim):
                session = await author.session("ann", TURN)
                await author.store.fork(session.id)
                trips = Trips(victim)
                trips.crash_at = (when, at)
                with contextlib.suppress(StoreError):
                    await victim.delete_tenant("ann")
                finished = trips.count < at
                try:
                    await author.store.create_tenant("ann")  # finishes it, if it has begun
                except TenantExists:
                    await author.store.delete_tenant("ann")
                await author.store.recover(older_than=0)
                assert raw.keys(f"{author.prefix}:{{*}}:session:*") == []
                assert raw.keys(f"{author.prefix}:kv:*") == []
                assert raw.keys(f"{author.prefix}:*seed*") == []
                assert (await author.store.check_integrity()).problems == []
        assert at > 6


async def test_a_fork_of_a_lineage_whose_key_was_destroyed_meanwhile_is_refused(
    server, objects, raw
):
    at, finished, outcomes = 0, False, set()
    while not finished:
        at += 1
        async with two_processes(server, objects) as (author, victim):
            session = await author.session("ann")
            trips = Trips(victim)
            trips.between = (
                at,
                lambda author=author, session=session: author.store.delete_session(session.id),
            )
            try:
                branch = await victim.fork(session.id)
            except (NotFound, CorruptObject):
                outcomes.add("refused")
                assert raw.keys(f"{author.prefix}:{{*}}:session:*") == []
            else:
                outcomes.add("forked")
                await author.turn(branch.id, TURN)
            finished = trips.between is not None
            assert (await author.store.check_integrity()).problems == []
    assert outcomes == {"forked", "refused"}
