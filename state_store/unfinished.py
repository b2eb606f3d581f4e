"""Sessions that are made for something that may never come, so that they are not left for good."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import msgpack

from state_store.connection import Control
from state_store.layout import TenantKeys


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

    async def put(self, begun: Begun) -> None:
        """Raises InvalidTenant."""
        async with self._control.guard() as client:
            row = msgpack.packb([begun.head, begun.at])
            await client.hset(self._all(begun.tenant), begun.session_id, row)

    async def drop(self, tenant: str, session_id: str) -> None:
        """Raises InvalidTenant."""
        async with self._control.guard() as client:
            await client.hdel(self._all(tenant), session_id)

    async def every(self) -> AsyncIterator[Begun]:
        """Of all tenants; some may come twice. Looks at every key of the store."""
        before, after = f"{self._prefix}:{{tenant:", "}:unfinished"
        async for keys in self._control.scan(f"{before}*{after}"):
            for key in keys:
                tenant = key.decode().removeprefix(before).removesuffix(after)
                async with self._control.guard() as client:
                    rows = await client.hgetall(key)
                for session_id, row in rows.items():
                    yield Begun(tenant, session_id.decode(), *msgpack.unpackb(row))

    def _all(self, tenant: str) -> str:
        return TenantKeys(self._prefix, tenant).unfinished
