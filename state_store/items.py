"""Items: lists of values that a tenant's clients keep, by name, and that expire.

For what a framework remembers beside the model's state. They are no part of any session.
"""

from __future__ import annotations

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
        if not values:
            return
        key = self._key(tenant, name)
        async with self._control.guard() as client, client.pipeline(transaction=True) as together:
            together.rpush(key, *values)
            together.pexpire(key, int(ttl * 1000))
            await together.execute()

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
        async with self._control.guard() as client:
            found: bytes | None = await client.rpop(self._key(tenant, name))
        return found

    async def clear(self, tenant: str, name: str) -> None:
        async with self._control.guard() as client:
            await client.delete(self._key(tenant, name))

    def _key(self, tenant: str, name: str) -> str:
        return TenantKeys(self._prefix, tenant).items(name)
