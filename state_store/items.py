"""Items: lists of values that a tenant's clients keep, by name, and that expire.

For what a framework remembers beside the model's state. They are no part of any session.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from state_store.connection import Control
from state_store.durations import milliseconds
from state_store.layout import TenantKeys
from state_store.quotas import Quotas, counted_as


class Items:
    """See `StateStore.items`. Every method raises InvalidTenant."""

    def __init__(self, control: Control, prefix: str, quotas: Quotas) -> None:
        self._quotas = quotas
        self._control = control
        self._prefix = prefix

    async def add(self, tenant: str, name: str, values: Sequence[bytes], *, ttl: float) -> None:
        """Append, all or none. ttl: seconds that the list lives after this.

        Raises QuotaExceeded: items count for the tenant's bytes. Raises InvalidArgument.
        """
        if not values:
            return
        lives = milliseconds(ttl)
        room = await self._quotas.reserve(tenant, bytes=sum(map(len, values)))
        try:
            given = (lives, counted_as(name), *values)
            await self._control.run("append_items", self._marked(tenant, name), *given)
        finally:
            await self._quotas.release(room)

    async def last(self, tenant: str, name: str, limit: int | None = None) -> list[bytes]:
        """The last `limit` values, or all, in their order."""
        if limit == 0:
            return []
        async with self._control.guard() as client:
            found: list[bytes] = await client.lrange(
                self._key(tenant, name), 0 if limit is None else -limit, -1
            )
        return found

    async def pop(self, tenant: str, name: str) -> bytes | None:
        """Take the last value away; None if there is none."""
        found: bytes | None = await self._control.run(
            "pop_item", self._marked(tenant, name), counted_as(name)
        )
        return found

    async def clear(self, tenant: str, name: str) -> None:
        keys = TenantKeys(self._prefix, tenant)
        await self._control.run("clear_items", [keys.items(name), keys.usage], counted_as(name), 1)

    def _marked(self, tenant: str, name: str) -> list[str]:
        """The list, the mark of one call (a script is run twice if its answer is lost), and where
        its bytes are counted."""
        keys = TenantKeys(self._prefix, tenant)
        return [keys.items(name), keys.items_call(secrets.token_hex(16)), keys.usage]

    def _key(self, tenant: str, name: str) -> str:
        return TenantKeys(self._prefix, tenant).items(name)
