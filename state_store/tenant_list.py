"""The list of all tenants.

It lies apart from their records, in another slot of a cluster. A name is listed, then its record is
made, then the name is listed again, for somebody may have taken it off between; when a tenant is
deleted its record is, first. Who takes a name off looks at the record after that, and lists it
again if it is there. The list is believed only where there are records; `recover` and a repair
correct it by them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from state_store.connection import Command, Control
from state_store.errors import CorruptObject, InvalidArgument
from state_store.layout import OperatorKeys
from state_store.records import Tenant

_BATCH = 512  # records that one round trip reads

logger = logging.getLogger(__name__)


class TenantList:
    """Names of tenants that were made and not deleted."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix
        self._listed = OperatorKeys(prefix).tenants

    async def page(self, *, limit: int, after: str | None) -> tuple[list[Tenant], str | None]:
        """At most `limit` by name, from after a name on, and none that was deleted; and the name
        that the next ones come after, None if there are none. Raises InvalidArgument."""
        if limit < 1:
            raise InvalidArgument(f"a page of {limit} tenants has no end to go on from.")
        found: list[Tenant] = []
        place = b"-" if after is None else b"(" + after.encode()
        while len(found) <= limit:
            async with self._control.guard() as client:
                listed = await client.zrangebylex(
                    self._listed, place, "+", start=0, num=limit + 1 - len(found)
                )
            if not listed:
                return found, None
            names = [raw.decode(errors="replace") for raw in listed]
            found += [tenant for tenant in await self._there(names) if tenant is not None]
            place = b"(" + listed[-1]
        return found[:limit], found[limit - 1].name

    async def list_again(self, names: Sequence[str]) -> None:
        """Have the list name those of `names` that are there."""
        for name, tenant in zip(names, await self._there(names), strict=True):
            if tenant is not None:
                await self._control.exchange([self.naming(name)])
                if (await self._there([name]))[0] is None:  # it was deleted between the two
                    await self.unlist([name])

    async def unlist(self, names: Sequence[str]) -> None:
        """Take names off the list, but those of tenants that are there."""
        if names:
            await self._control.exchange([("ZREM", self._listed, *names)])
            await self.list_again(names)

    async def unlisted(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Names of tenants that are there and not listed, and of those that are listed and not
        there. names: all of which there is a record"""
        async with self._control.guard() as client:
            raw = await client.zrange(self._listed, 0, -1)
        listed = {one.decode(errors="replace") for one in raw}
        every = sorted(listed.union(names))
        found = dict(zip(every, await self._records(every), strict=True))
        there = {name for name, tenant in found.items() if isinstance(tenant, Tenant)}
        gone = {name for name, tenant in found.items() if tenant is None}
        return sorted(there - listed), sorted(listed & gone)

    def naming(self, name: str) -> Command:
        """Lists a tenant."""
        return ("ZADD", self._listed, 0, name)

    async def _there(self, names: Sequence[str]) -> list[Tenant | None]:
        """The record of each; None as well where it cannot be read, which is logged."""
        found: list[Tenant | None] = []
        for name, tenant in zip(names, await self._records(names), strict=True):
            if isinstance(tenant, CorruptObject):
                logger.error("tenant %s is left out of the list: %s", name, tenant)
            found.append(tenant if isinstance(tenant, Tenant) else None)
        return found

    async def _records(self, names: Sequence[str]) -> list[Tenant | CorruptObject | None]:
        """None where there is none, and where the tenant was deleted."""
        found: list[Tenant | CorruptObject | None] = []
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            reading = [("GET", f"{self._prefix}:{{tenant:{name}}}:record") for name in batch]
            for stored in await self._control.exchange(reading):
                try:
                    tenant = None if stored is None else Tenant.unpack(stored)
                    found.append(None if tenant is None or tenant.deleted else tenant)
                except CorruptObject as error:
                    found.append(error)
        return found
