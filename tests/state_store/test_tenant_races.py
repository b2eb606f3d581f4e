"""What is written for a tenant while somebody deletes it does not stay."""

from __future__ import annotations

import contextlib
import secrets

import pytest
from author import FINGERPRINT, Author
from sealing import NEXT, TURN, opened
from writer import Trips

from state_store.errors import (
    CorruptObject,
    NotFound,
    StoreError,
    TenantExists,
)
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.quotas import Quota


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
