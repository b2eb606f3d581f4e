"""Tenants' lists, and what their quotas are checked against: they lie apart from the sessions that
they are about, and so may differ."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from state_store.errors import CorruptObject, InvalidId, InvalidTenant
from state_store.integrity.report import Problem
from state_store.integrity.walk import Walk, batches, pairs
from state_store.layout import (
    LineageKeys,
    TenantKeys,
    is_snapshot_id,
    label_of,
    lineage_of,
    lists_of_label,
)
from state_store.quotas import SUM, wrong_sum
from state_store.records import LabelSet, Tenant
from state_store.sessions import UNMADE
from state_store.tenant_list import TenantList
from state_store.unfinished import Unfinished


async def check_listings(walk: Walk) -> None:
    """That lists name all sessions and nothing else. A session that was listed a moment ago may
    not have been made yet, and is no problem."""
    for tenant, names in sorted(walk.tenants.items()):
        try:
            keys = TenantKeys(walk.prefix, tenant)
        except InvalidTenant:
            continue
        await _check_record(walk, keys)
        await _check_sum(walk, keys)
        for key in (keys.sessions, keys.used):
            await _check_dangling(walk, keys, key)
        for name in sorted(names):
            if label_of(f"{walk.prefix}:{name}") is not None:
                await _check_dangling(walk, keys, f"{walk.prefix}:{name}")
    await _check_missing(walk)
    await _check_tenants(walk)


async def _check_tenants(walk: Walk) -> None:
    """That the lists of tenants name those that they are to name."""
    recorded = sorted(name for name, keys in walk.tenants.items() if "record" in keys)
    tenants = TenantList(walk.control, walk.prefix)
    first, again = await tenants.unlisted(recorded), await tenants.unlisted(recorded)
    for name in set(first[0]).intersection(again[0]):
        walk.found("unlisted-tenant", name, "the store does not list it", repairable=True)
    for name in set(first[1]).intersection(again[1]):  # else it was being made or deleted
        walk.found("unlisted-tenant", name, "is listed, and is not there", repairable=True)
    waiting = sorted(name for name, keys in walk.tenants.items() if "unfinished" in keys)
    for name in await Unfinished(walk.control, walk.prefix).unlisted(waiting):
        walk.found(
            "unlisted-unfinished",
            name,
            "recovery is not told to look for its unfinished sessions",
            repairable=True,
        )


async def list_tenants(walk: Walk, problems: Sequence[Problem]) -> None:
    """Correct the lists of tenants by their records."""
    await TenantList(walk.control, walk.prefix).unlist([one.subject for one in problems])


async def list_unfinished(walk: Walk, problems: Sequence[Problem]) -> None:
    await Unfinished(walk.control, walk.prefix).list_again([one.subject for one in problems])


async def _check_record(walk: Walk, keys: TenantKeys) -> None:
    async with walk.control.guard() as client:
        stored = await client.get(keys.record)
    if stored is None:
        return  # made at first use
    try:
        Tenant.unpack(stored)
    except CorruptObject as error:
        walk.found("tenant-record", keys.tenant, str(error), repairable=False)


async def _check_sum(walk: Walk, keys: TenantKeys) -> None:
    async with walk.control.guard() as client:
        wrong = wrong_sum(await client.hgetall(keys.usage))
    if wrong is not None:
        written, right = (one.decode(errors="replace") for one in wrong)
        walk.found(
            "tenant-totals",
            keys.tenant,
            f"its bytes and tokens are {written}, and of its lineages and lists {right}",
            repairable=True,
            key=keys.usage,
            field=SUM,
            value=wrong[0],
        )


async def _check_dangling(walk: Walk, keys: TenantKeys, key: str) -> None:
    async for batch in _members(walk, key):
        for one in await dangling(walk, key, batch):
            walk.found(
                "list-dangling",
                key,
                f"names {one.decode(errors='replace')}, which does not belong there",
                repairable=True,
                tenant=keys.tenant,
                key=key,
                member=one,
            )


async def dangling(walk: Walk, key: str, members: Sequence[bytes]) -> list[bytes]:
    """Which members of a list are of what is no more, or does not carry the label; not those that
    were listed a moment ago, whose record may be about to be written."""
    is_label = label_of(key) is not None
    listed_in = lists_of_label(key)[0] if is_label else key  # by the time when that was
    async with walk.control.guard() as client:
        pipeline = client.pipeline(transaction=False)
        for one in members:
            pipeline.hget(_record_key(walk.prefix, one), "labels" if is_label else "head")
            pipeline.zscore(listed_in, one)
        replies = await pipeline.execute()
        young = time.time() - UNMADE
        gone = [
            one
            for one, (written, listed_at) in zip(members, pairs(replies), strict=True)
            if not _belongs(key, written) and (listed_at or 0.0) < young
        ]
        # A deletion that was under way has taken it off the list by now.
        pipeline = client.pipeline(transaction=False)
        for one in gone:
            pipeline.zscore(key, one)
        still = await pipeline.execute() if gone else []
    return [one for one, listed_at in zip(gone, still, strict=True) if listed_at is not None]


def _belongs(key: str, written: bytes | None) -> bool:
    label = label_of(key)
    if written is None or label is None:
        return written is not None
    try:
        return label in LabelSet.unpack(written).labels.items()
    except CorruptObject:
        return True  # what it carries cannot be told


async def _members(walk: Walk, key: str) -> AsyncIterator[list[bytes]]:
    cursor = 0
    while True:
        async with walk.control.guard() as client:
            cursor, scored = await client.zscan(key, cursor, count=1000)
        if scored:
            yield [member for member, _ in scored]
        if not cursor:
            return


async def _check_missing(walk: Walk) -> None:
    for batch in batches(sorted(walk.bodies)):
        wanted: list[tuple[str, str]] = []
        for one in batch:
            keys = TenantKeys(walk.prefix, walk.bodies[one].tenant)
            wanted.append((one, keys.sessions))
            for label in walk.labels.get(one, {}).items():
                wanted += [(one, keys.label(*label)), (one, keys.labelled(*label))]
        async with walk.control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for one, key in wanted:
                pipeline.zscore(key, one)
                pipeline.exists(_record_key(walk.prefix, one.encode()))
            replies = await pipeline.execute()
        for (one, key), (listed_at, exists) in zip(wanted, pairs(replies), strict=True):
            if listed_at is None and exists:
                walk.found(
                    "list-missing",
                    key,
                    f"lacks {one}",
                    repairable=True,
                    key=key,
                    session=one,
                    score=walk.bodies[one].created_at,
                )


def _record_key(prefix: str, member: bytes) -> str:
    text = member.decode(errors="replace")
    try:
        keys = LineageKeys(prefix, lineage_of(text))
    except InvalidId:
        return f"{prefix}:no-record"
    return keys.snapshot(text) if is_snapshot_id(text) else keys.session(text)
