"""Sessions whose records are lost or unreadable: taken off their lineages, which then count anew
what is held, for nobody knows what these sessions held."""

from __future__ import annotations

import contextlib
import logging

from state_store import garbage
from state_store.connection import Control
from state_store.errors import CorruptObject, InvalidTenant
from state_store.integrity.lineages import check_lineage, discover, survey
from state_store.integrity.walk import Lineage, Walk
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.records import Session

logger = logging.getLogger(__name__)


async def forget_lost(
    control: Control, prefix: str, session_id: str, *, tenant: str | None
) -> list[str] | None:
    """Delete a session that its lineage or tenant lists and whose record is of no use, with what
    only it held; the tenants that listed it. None if there is no such session, or not the
    tenant's. Reads all of the store's names.

    While another record is missing or contradicts itself, nothing that it may have held is let go.
    """
    lineage = lineage_of(session_id)
    keys = LineageKeys(prefix, lineage)
    async with control.guard() as client:
        listed = await client.sismember(keys.sessions, session_id)
        body, *rest = await client.hmget(keys.session(session_id), "body", "head", "labels")
    if (not listed) if body is None else _is_readable(body, *rest):
        return None
    walk = Walk(control, prefix)
    found = (await discover(walk)).get(lineage, Lineage())
    listing = await _listing(walk, session_id)
    if tenant is not None and tenant not in listing:
        return None
    forgotten = [
        keys.session(session_id),
        keys.lease(session_id),
        keys.sessions,
        keys.attachments(session_id),
        keys.feed(session_id),
        keys.tree,
    ]
    await control.run("forget", forgotten, session_id, body or b"")
    async with control.guard() as client:
        for name in listing:
            await client.zrem(TenantKeys(prefix, name).sessions, session_id)
            await client.zrem(TenantKeys(prefix, name).used, session_id)
    found.sessions.discard(session_id)
    await check_lineage(walk, lineage, found)
    if walk.gaps:
        logger.warning(
            "%s is deleted; what only it held stays until all of %s can be read",
            session_id,
            lineage,
        )
        return listing
    await survey(walk, lineage, found, mend=True)
    await garbage.unwind(control, prefix, lineage)
    return listing


def _is_readable(body: bytes, head: bytes | None, labels: bytes | None) -> bool:
    try:
        return head is not None and bool(Session.unpack(body, head, labels).id)
    except CorruptObject:
        return False


async def _listing(walk: Walk, session_id: str) -> list[str]:
    """Tenants whose lists name a session."""
    lists = {}
    for name, kinds in walk.tenants.items():
        with contextlib.suppress(InvalidTenant):  # a key that is not the store's
            if "sessions" in kinds:
                lists[name] = TenantKeys(walk.prefix, name).sessions
    names = sorted(lists)
    async with walk.control.guard() as client:
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.zscore(lists[name], session_id)
        scores = await pipeline.execute() if names else []
    return [name for name, at in zip(names, scores, strict=True) if at is not None]
