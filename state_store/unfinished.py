"""Sessions that are made for something that may never come, so that they are not left for good.

They lie with their tenants, and tenants that may have some are listed: first, so that none is put
where nobody looks.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import msgpack

from state_store.connection import Control, Script
from state_store.errors import CorruptObject
from state_store.layout import OperatorKeys, TenantKeys, is_tenant
from state_store.recovering import going_on_without

logger = logging.getLogger(__name__)

_UNLISTED = 60  # seconds after which a listed tenant without any is not about to have one


class Begun(NamedTuple):
    """head: that the session is made with; at: seconds since 1970"""

    tenant: str
    session_id: str
    head: str | None
    at: float


class Unfinished:
    """See `StateStore.unfinished`. They stay until they are dropped."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix
        self._listed = OperatorKeys(prefix).unfinished

    async def put(self, begun: Begun) -> None:
        """Raises InvalidTenant."""
        row = msgpack.packb([begun.head, begun.at])
        await self._control.exchange(
            [self._listing(begun.tenant)],
            [("HSET", self._all(begun.tenant), begun.session_id, row)],
        )

    async def drop(self, tenant: str, session_id: str) -> None:
        """Raises InvalidTenant."""
        async with self._control.guard() as client:
            await client.hdel(self._all(tenant), session_id)

    async def every(self) -> AsyncIterator[Begun]:
        """Of all tenants. What cannot be read is logged, and keeps nobody from the others."""
        async with self._control.guard() as client:
            listed = await client.zrange(self._listed, 0, -1, withscores=True)
        for raw, listed_at in listed:
            rows: dict[bytes, bytes] = {}
            with going_on_without(f"unfinished sessions of tenant {raw!r}"):
                key = self._all(raw.decode(errors="replace"))
                async with self._control.guard() as client:
                    rows = await client.hgetall(key)
                if not rows:
                    seen = [raw, repr(listed_at), _UNLISTED]
                    await self._control.run("unlist", [self._listed, self._listed], *seen)
            for session_id, row in rows.items():
                try:
                    begun = _begun(raw.decode(), session_id, row)
                except CorruptObject as error:
                    logger.error("unfinished session %r is left alone: %s", session_id, error)
                    continue
                yield begun

    async def unlisted(self, tenants: Sequence[str]) -> list[str]:
        """Of tenants that have some, those that are not listed. What no tenant can be called is
        left out."""
        names = [one for one in tenants if is_tenant(one)]
        if not names:
            return []
        async with self._control.guard() as client:
            scores = await client.zmscore(self._listed, names)
        missing = [one for one, score in zip(names, scores, strict=True) if score is None]
        have = await self._control.exchange([("EXISTS", self._all(one)) for one in missing])
        return [one for one, has in zip(missing, have, strict=True) if has]

    async def list_again(self, tenants: Sequence[str]) -> None:
        """Has `every` look at them."""
        if tenants:
            await self._control.exchange([self._listing(one) for one in tenants])

    def _listing(self, tenant: str) -> Script:
        return Script("use", [self._listed], [tenant, ""])

    def _all(self, tenant: str) -> str:
        return TenantKeys(self._prefix, tenant).unfinished


def _begun(tenant: str, session_id: bytes, row: bytes) -> Begun:
    """Raises CorruptObject."""
    try:
        head, at = msgpack.unpackb(row)
        return Begun(tenant, session_id.decode(), head, float(at))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptObject(f"its row cannot be read: {error!r}") from error
