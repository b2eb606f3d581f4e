"""Items: lists of values that a tenant's clients keep, by name, and that expire.

For what a framework remembers beside the model's state. They are no part of any session.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from state_store.connection import Control
from state_store.durations import milliseconds
from state_store.errors import TenantDeleted
from state_store.layout import TenantKeys
from state_store.quotas import Quotas, counted_as
from state_store.tenant_seals import TenantSeals
from state_store.tenants import Tenants


class Items:
    """See `StateStore.items`. Names and values of an encrypted tenant are sealed.

    Every method raises InvalidTenant, VaultLocked, InvalidKey. Of a tenant who was deleted there
    are no items.
    """

    def __init__(self, control: Control, prefix: str, tenants: Tenants, quotas: Quotas) -> None:
        self._tenants = tenants
        self._quotas = quotas
        self._control = control
        self._prefix = prefix

    async def add(self, tenant: str, name: str, values: Sequence[bytes], *, ttl: float) -> None:
        """Append, all or none. ttl: seconds that the list lives after this.

        Raises QuotaExceeded: items count for the tenant's bytes. Raises InvalidArgument,
        TenantDeleted.
        """
        if not values:
            return
        lives = milliseconds(ttl)
        seals = await self._tenants.seals(tenant)
        while not await self._added(tenant, seals, name, values, lives):
            seals = await self._tenants.seals(tenant, anew=True)

    async def last(self, tenant: str, name: str, limit: int | None = None) -> list[bytes]:
        """The last `limit` values, or all, in their order. Raises CorruptObject."""
        if limit == 0:
            return []
        try:
            seals = await self._tenants.seals(tenant)
        except TenantDeleted:
            return []
        key = self._key(tenant, seals.name(name))
        async with self._control.guard() as client:
            found: list[bytes] = await client.lrange(key, 0 if limit is None else -limit, -1)
        return [seals.open(one, key) for one in found]

    async def pop(self, tenant: str, name: str) -> bytes | None:
        """Take the last value away; None if there is none. Raises CorruptObject."""
        try:
            seals = await self._tenants.seals(tenant)
        except TenantDeleted:
            return None
        hidden = seals.name(name)
        found: bytes | None = await self._control.run(
            "pop_item", self._marked(tenant, hidden), counted_as(hidden)
        )
        return None if found is None else seals.open(found, self._key(tenant, hidden))

    async def clear(self, tenant: str, name: str) -> None:
        try:
            hidden = (await self._tenants.seals(tenant)).name(name)
        except TenantDeleted:
            return
        keys = TenantKeys(self._prefix, tenant)
        taken = [keys.items(hidden), keys.usage]
        await self._control.run("clear_items", taken, counted_as(hidden), 1)

    async def _added(
        self, tenant: str, seals: TenantSeals, name: str, values: Sequence[bytes], lives: int
    ) -> bool:
        """False if the tenant is not as it was read; lives: milliseconds"""
        hidden = seals.name(name)
        key = self._key(tenant, hidden)
        sealed = [seals.seal(value, key) for value in values]
        room = await self._quotas.reserve(tenant, bytes=sum(map(len, sealed)))
        try:
            keys = [*self._marked(tenant, hidden), TenantKeys(self._prefix, tenant).record]
            given = (seals.record, lives, counted_as(hidden), *sealed)
            return bool(await self._control.run("append_items", keys, *given))
        finally:
            await self._quotas.release(room)

    def _marked(self, tenant: str, name: str) -> list[str]:
        """The list, the mark of one call (a script is run twice if its answer is lost), and where
        its bytes are counted. name: as it stands in the store"""
        keys = TenantKeys(self._prefix, tenant)
        return [keys.items(name), keys.items_call(secrets.token_hex(16)), keys.usage]

    def _key(self, tenant: str, name: str) -> str:
        return TenantKeys(self._prefix, tenant).items(name)
