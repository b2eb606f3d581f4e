"""Tenants: their economy classes, and what is left when they are deleted."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
import redis
from author import FINGERPRINT, RANKS, Author
from sealing import NEW, NEXT, OLD, TURN, everything, on_disk, opened, put_back

from state_store.encodings import ECONOMIES, LOSSLESS
from state_store.errors import (
    InvalidDraft,
    NotFound,
    TenantDeleted,
    TenantExists,
    UnknownEconomy,
    VaultLocked,
)
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.lineages import Lineage
from state_store.objects import ObjectClient
from state_store.payloads import Outcome
from state_store.records import Tenant
from state_store.vault import Vault

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


async def test_a_writer_that_knew_the_earlier_tenant_writes_for_the_later_as_that_wants_it(
    author, server, objects, prefix
):
    async with await opened(server, prefix) as store:
        knows_it = Author(store, objects, prefix)
        await store.tenant("ann")
        chosen = store.new_session_id()
        await author.store.delete_tenant("ann")
        later = await author.store.create_tenant("ann", economy="compact")
        body = (await knows_it.session("ann", TURN, session_id=chosen)).body
        assert (body.id, body.tenant_id, body.economy) == (chosen, later.id, "compact")
        assert not body.encrypted
        assert [one.id for one in await author.store.sessions("ann")] == [chosen]
        assert (await author.store.check_integrity()).problems == []


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
