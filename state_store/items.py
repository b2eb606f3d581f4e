"""Items: lists of values that a tenant's clients keep, by name, and that expire.

For what a framework remembers beside the model's state. They are no part of any session.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from state_store.connection import Control
from state_store.layout import TenantKeys


class Items:
    """See `StateStore.items`. Every method raises InvalidTenant."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix

    async def add(self, tenant: str, name: str, values: Sequence[bytes], *, ttl: float) -> None:
        """Append, all or none. ttl: seconds that the list lives after this."""
        if values:
            keys = self._marked(tenant, name)
            await self._control.run("append_items", keys, int(ttl * 1000), *values)

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
        found: bytes | None = await self._control.run("pop_item", self._marked(tenant, name))
        return found

    async def clear(self, tenant: str, name: str) -> None:
        async with self._control.guard() as client:
            await client.delete(self._key(tenant, name))

    def _marked(self, tenant: str, name: str) -> list[str]:
        """The list, and the mark of one call: a script is run twice if its answer is lost."""
        mark = TenantKeys(self._prefix, tenant).items_call(secrets.token_hex(16))
        return [self._key(tenant, name), mark]

    def _key(self, tenant: str, name: str) -> str:
        return TenantKeys(self._prefix, tenant).items(name)
