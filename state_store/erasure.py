"""Erasing a tenant: its records, its keys, and what the servers' own logs keep of them."""

from __future__ import annotations

import asyncio
import logging
import time

from redis.exceptions import ResponseError

from state_store.connection import Control, Master
from state_store.errors import DurabilityNotReached, NotFound
from state_store.layout import TenantKeys
from state_store.sessions import Sessions
from state_store.tenants import Tenants

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
    """Delete all sessions of a tenant who was deleted; how many. One that is listed but not made
    is left to whoever is making it: they will find that the tenant is gone."""
    keys = TenantKeys(prefix, name)
    removed = 0
    async with control.guard() as client:
        listed = await client.zrange(keys.sessions, 0, -1)
    for raw in listed:
        try:
            await sessions.delete(raw.decode())
            removed += 1
        except NotFound:
            logger.info("session %s of tenant %s is not made", raw.decode(), name)
    async with control.guard() as client:
        await client.delete(keys.used, keys.usage)
    return removed


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
