"""Erasing a tenant: its records, its keys, and what the servers' own logs keep of them."""

from __future__ import annotations

import asyncio
import logging
import time

from redis.exceptions import ResponseError

from state_store.connection import Control
from state_store.errors import CorruptObject, DurabilityNotReached, InvalidTenant, NotFound
from state_store.integrity import forget_lost
from state_store.layout import TenantKeys
from state_store.masters import Master
from state_store.sessions import UNMADE, Sessions
from state_store.tenants import Tenants
from state_store.unfinished import Unfinished

logger = logging.getLogger(__name__)

_POLL = 0.1  # seconds between looks at a rewrite that must end before the next can begin


async def delete_tenant(
    control: Control, prefix: str, tenants: Tenants, sessions: Sessions, name: str
) -> int:
    """See `StateStore.delete_tenant`.

    The key goes first: from then on nobody can read what the tenant stored, nor add to it, even
    if this ends half way; to call it again finishes it.
    """
    if not await tenants.bury(name):
        raise NotFound(f"no tenant {name}.")
    removed = await delete_sessions(control, prefix, sessions, name)
    await rewrite_logs(control)
    return removed


async def delete_sessions(control: Control, prefix: str, sessions: Sessions, name: str) -> int:
    """Delete all sessions of a tenant who was deleted, and whatever else is theirs but the record
    of the deletion; how many sessions. One that was listed a moment ago and is not made stays
    listed: whoever is making it will find that the tenant is gone."""
    keys = TenantKeys(prefix, name)
    removed = 0
    async with control.guard() as client:
        listed = await client.zrange(keys.sessions, 0, -1, withscores=True)
    for raw, created_at in listed:
        try:
            await sessions.delete(raw.decode())
            removed += 1
        except (CorruptObject, NotFound):
            if await forget_lost(control, prefix, raw.decode(), tenant=name) is not None:
                removed += 1
                continue
            logger.info("session %s of tenant %s is not made", raw.decode(), name)
            if created_at < time.time() - UNMADE:
                async with control.guard() as client:
                    await client.zrem(keys.sessions, raw)
    async for found in control.scan(keys.pattern):
        async with control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for key in found:
                if key.decode() not in (keys.record, keys.sessions):
                    # A cluster's pipeline has an `unlink` that it would have to wait for.
                    pipeline.execute_command("UNLINK", key)
            if len(pipeline):
                await pipeline.execute()
    return removed


async def recover(
    control: Control, prefix: str, tenants: Tenants, sessions: Sessions, unfinished: Unfinished
) -> None:
    """Delete what was stored for tenants while they were deleted, or left when that ended half
    way, and whose writers have died. And correct the lists of tenants."""
    before = f"{prefix}:{{tenant:"
    recorded: set[str] = set()
    left: set[str] = set()
    waiting: set[str] = set()
    async for found in control.scan(f"{before}*}}:*"):
        for key in found:
            name, _, what = key.decode(errors="replace").removeprefix(before).partition("}:")
            (recorded if what == "record" else left).add(name)
            if what == "unfinished":
                waiting.add(name)
    for name in sorted(left):
        try:
            if await tenants.is_deleted(name):
                await delete_sessions(control, prefix, sessions, name)
        except (InvalidTenant, CorruptObject) as error:
            logger.error("whether tenant %s was deleted cannot be told: %s", name, error)
    missing, dangling = await tenants.list.unlisted(sorted(recorded))
    await tenants.list.list_again(missing)
    await tenants.list.unlist(dangling)
    await unfinished.list_again(await unfinished.unlisted(sorted(waiting)))


async def rewrite_logs(control: Control) -> None:
    """Have every master that keeps an append-only file begin to write it anew, without what was
    deleted before this call. Raises DurabilityNotReached when one does not within the timeout."""
    deadline = time.monotonic() + control.timeout
    for master in await control.masters():
        async with control.guard():
            while not await _begins_to_rewrite(master):
                if time.monotonic() > deadline:
                    raise DurabilityNotReached(
                        "everything was deleted, but a server is still writing its append-only "
                        "file anew from before, and keeps a copy until it does so again; run "
                        "BGREWRITEAOF there when it is done, or delete the tenant once more."
                    )
                await asyncio.sleep(_POLL)


async def _begins_to_rewrite(master: Master) -> bool:
    """False while a rewrite runs that may have begun too early."""
    (state,) = await master.exchange([("INFO", "persistence")])
    if not state["aof_enabled"]:
        return True
    if state["aof_rewrite_in_progress"]:
        return False
    try:
        await master.exchange([("BGREWRITEAOF",)])
    except ResponseError as error:
        if "in progress" in str(error):  # begun by somebody else meanwhile
            return False
        raise
    return True
