"""Notes: small values of a tenant's that expire, by name.

For what callers must find again without walking sessions: which snapshot a conversation led to,
what a request was answered. They are no part of any session, and nothing relies on them.
"""

from __future__ import annotations

from collections.abc import Sequence

from state_store.connection import Control
from state_store.layout import TenantKeys


class Notes:
    """See `StateStore.notes`. Every method raises InvalidTenant."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix

    async def put(self, tenant: str, name: str, value: bytes, *, ttl: float) -> None:
        """ttl: seconds that the note lives."""
        async with self._control.guard() as client:
            await client.set(self._key(tenant, name), value, px=int(ttl * 1000))

    async def put_new(self, tenant: str, name: str, value: bytes, *, ttl: float) -> bytes | None:
        """Put a note unless there is one of that name, which is returned then."""
        key = self._key(tenant, name)
        async with self._control.guard() as client:
            while not await client.set(key, value, px=int(ttl * 1000), nx=True):
                found: bytes | None = await client.get(key)
                if found is not None:  # else it has just expired
                    return found
        return None

    async def get(self, tenant: str, names: Sequence[str]) -> list[bytes | None]:
        """In the order of `names`; None for one that is not there."""
        if not names:
            return []
        async with self._control.guard() as client:
            found: list[bytes | None] = await client.mget([self._key(tenant, n) for n in names])
        return found

    async def delete(self, tenant: str, name: str) -> None:
        async with self._control.guard() as client:
            await client.delete(self._key(tenant, name))

    def _key(self, tenant: str, name: str) -> str:
        return TenantKeys(self._prefix, tenant).note(name)
