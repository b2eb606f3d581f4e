"""Tenants: whose sessions a store holds, and what hides them from each other."""

from __future__ import annotations

import secrets

from state_store.connection import Command, Control, Script
from state_store.encodings import LOSSLESS, economy_named
from state_store.errors import NotFound, StoreUnavailable, TenantDeleted, TenantExists
from state_store.forms import page_salt
from state_store.layout import TenantKeys
from state_store.records import Tenant
from state_store.tenant_list import TenantList
from state_store.tenant_seals import TenantSeals
from state_store.vault import TenantKey, Vault, master_key_id

_ATTEMPTS = 8


class Tenants:
    """Records of tenants. Read once: only their deletion, and their key's wrapping, can change."""

    def __init__(self, control: Control, prefix: str, vault: Vault) -> None:
        self._control = control
        self._prefix = prefix
        self._vault = vault
        self.list = TenantList(control, prefix)
        self._known: dict[str, Tenant] = {}
        self._keys: dict[str, TenantKey] = {}

    async def get(self, name: str) -> Tenant:
        """The tenant's record. One that was never created is made at first use: in the clear,
        lossless. Raises InvalidTenant, TenantDeleted."""
        known = self._known.get(name)
        return await self._read(name) if known is None else known

    async def create(
        self, name: str, *, encrypted: bool = False, economy: str = LOSSLESS
    ) -> Tenant:
        """See `StateStore.create_tenant`. What is left of an earlier tenant must be deleted."""
        economy_named(economy)
        wrapped = self._vault.new_tenant_key(name) if encrypted else None
        tenant = Tenant(
            name=name,
            id=secrets.token_hex(8),
            salt="" if encrypted else secrets.token_hex(16),
            wrapped_key=wrapped,
            economy=economy,
        )
        stored = await self._stored(name)
        if stored is not None and not Tenant.unpack(stored).deleted:
            raise _exists(name)
        if not await self._make(name, stored, tenant):
            raise _exists(name)
        self._known[name] = tenant
        return tenant

    async def find(self, name: str) -> Tenant:
        """The tenant's record, and none is made. Raises NotFound, InvalidTenant, TenantDeleted."""
        stored = await self._stored(name)
        if stored is None:
            raise NotFound(f"there is no tenant {name}.")
        tenant = Tenant.unpack(stored)
        if tenant.deleted:
            raise _deleted(name)
        return tenant

    async def is_deleted(self, name: str) -> bool:
        stored = await self._stored(name)
        return stored is not None and Tenant.unpack(stored).deleted

    async def same(self, name: str, tenant_id: str) -> Tenant:
        """The record of one stay of a tenant; as it is now if it is not the one that was read
        last. Raises TenantDeleted when that stay is over."""
        tenant = await self.get(name)
        if tenant.id != tenant_id:
            tenant = await self._read(name)
        if tenant.id != tenant_id:
            raise _deleted(name)
        return tenant

    def reading(self, name: str) -> Command:
        """Asks for the tenant's record, for `verify`."""
        return ("GET", TenantKeys(self._prefix, name).record)

    def verify(self, name: str, tenant_id: str, stored: bytes | None) -> None:
        """Make sure that this stay of the tenant was not over when its record was read. Raises
        TenantDeleted."""
        tenant = None if stored is None else Tenant.unpack(stored)
        if tenant is None or tenant.deleted or tenant.id != tenant_id:
            self._known.pop(name, None)
            raise _deleted(name)
        self._known[name] = tenant

    async def bury(self, name: str) -> bool:
        """Leave a record that the tenant was deleted, without its salt and key: from here on
        nobody can read what it stored. False if no such tenant was ever there."""
        for _ in range(_ATTEMPTS):
            stored = await self._stored(name)
            if stored is None:
                return False
            tenant = Tenant.unpack(stored)
            gone = Tenant(name=name, id=tenant.id, salt="", economy=tenant.economy, deleted=True)
            if tenant.deleted or await self._replace(name, stored, gone):
                self._known.pop(name, None)
                self._keys.pop(tenant.id, None)
                await self.list.unlist([name])
                return True
        raise _too_busy(name)

    async def rewrap(self, name: str) -> None:
        """See `StateStore.rewrap_tenant`."""
        for _ in range(_ATTEMPTS):
            tenant = await self._read(name)
            if tenant.wrapped_key is None:
                return
            wrapped = self._vault.rewrap(tenant.wrapped_key, name)
            changed = tenant.model_copy(update={"wrapped_key": wrapped})
            if await self._replace(name, tenant.pack(), changed):
                self._known[name] = changed
                return
        raise _too_busy(name)

    def key(self, tenant: Tenant) -> TenantKey | None:
        """None for a tenant who stores in the clear. Raises VaultLocked, InvalidKey."""
        if tenant.wrapped_key is None:
            return None
        known = self._keys.get(tenant.id)
        if known is None:
            known = self._keys[tenant.id] = self._vault.open(tenant.wrapped_key, tenant.name)
        return known

    async def master_key_id(self, name: str) -> str | None:
        """Of the master key that the tenant's is wrapped by now; None for one who stores in the
        clear. Raises InvalidTenant, TenantDeleted, InvalidKey."""
        tenant = await self.get(name)
        if tenant.wrapped_key is not None:  # it may be wrapped by another one since
            tenant = await self._read(name)
        return None if tenant.wrapped_key is None else master_key_id(tenant.wrapped_key)

    def salt(self, tenant: Tenant, economy: str) -> str:
        """Salt of the tenant's pages of one economy class. Raises VaultLocked, InvalidKey."""
        return page_salt(tenant, self.key(tenant), economy)

    async def seals(self, name: str, *, anew: bool = False) -> TenantSeals:
        """Of its notes and items. anew: as its record is now, and not as it was last read. Raises
        InvalidTenant, TenantDeleted, VaultLocked, InvalidKey."""
        tenant = await self._read(name) if anew else await self.get(name)
        return TenantSeals(tenant.pack(), self.key(tenant))

    async def _read(self, name: str) -> Tenant:
        self._known.pop(name, None)
        stored = await self._stored(name)
        if stored is None:
            fresh = Tenant(name=name, id=secrets.token_hex(8), salt=secrets.token_hex(16))
            await self._make(name, None, fresh)
            stored = await self._stored(name)
        if stored is None:
            raise _too_busy(name)
        tenant = Tenant.unpack(stored)
        if tenant.deleted:
            raise _deleted(name)
        self._known[name] = tenant
        return tenant

    async def _stored(self, name: str) -> bytes | None:
        async with self._control.guard() as client:
            stored: bytes | None = await client.get(TenantKeys(self._prefix, name).record)
            return stored

    async def _make(self, name: str, read: bytes | None, tenant: Tenant) -> bool:
        """As `_replace`, of a tenant that is not there."""
        listing = self.list.naming(name)
        replacing = Script(
            "replace", [TenantKeys(self._prefix, name).record], [read or b"", tenant.pack()]
        )
        _, made, _ = await self._control.exchange([listing], [replacing], [listing])
        if not made:
            await self.list.unlist([name])
        return bool(made)

    async def _replace(self, name: str, read: bytes | None, tenant: Tenant) -> bool:
        """Whether the record was still the one that was read, and is now the new one."""
        keys = [TenantKeys(self._prefix, name).record]
        return bool(await self._control.run("replace", keys, read or b"", tenant.pack()))


def _deleted(name: str) -> TenantDeleted:
    return TenantDeleted(
        f"tenant {name} was deleted, and nothing of it can be read any more. To use the name "
        "again, create the tenant."
    )


def _exists(name: str) -> TenantExists:
    return TenantExists(f"there is a tenant {name} already; it was not changed.")


def _too_busy(name: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"the record of tenant {name} kept changing while it was written; try again."
    )
