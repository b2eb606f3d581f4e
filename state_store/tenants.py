"""Tenants: whose pages a store holds."""

from __future__ import annotations

import secrets

from state_store.connection import Control
from state_store.layout import TenantKeys
from state_store.records import Tenant


class Tenants:
    """Records of tenants, which do not change and are read once."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix
        self._known: dict[str, Tenant] = {}

    async def get(self, name: str) -> Tenant:
        """The tenant's record; its salt is made at first use. Raises InvalidTenant."""
        known = self._known.get(name)
        if known is None:
            key = TenantKeys(self._prefix, name).record
            fresh = Tenant(name=name, salt=secrets.token_hex(16))
            async with self._control.guard() as client:
                await client.set(key, fresh.pack(), nx=True)
                stored = await client.get(key)
            known = self._known[name] = Tenant.unpack(stored)
        return known
