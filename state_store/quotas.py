"""How much a tenant may have.

Each lineage counts its snapshots' bytes and tokens beside them, in the scripts that commit and
bury. A tenant's slot has a copy of each lineage's totals, with their version, so that a late copy
never takes the place of a newer one; what a commit may add is checked against the sum of copies.
Copies are made after the fact: writers that race may go over a quota by what they have under way.
Nobody is refused for an old copy: before that all of the tenant's copies are made anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from state_store.connection import Control
from state_store.errors import QuotaExceeded
from state_store.layout import LineageKeys, TenantKeys, lineage_of

_BATCH = 512


@dataclass(frozen=True)
class Quota:
    """None for as much as there is room for.

    bytes:    of what snapshots pin, on all ranks, as on the device; what several lineages share
              counts for each
    tokens:   in the token logs
    sessions: of all lineages
    """

    bytes: int | None = None
    tokens: int | None = None
    sessions: int | None = None


class Quotas:
    """See the methods of the same names in `StateStore`."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix

    async def set(self, tenant: str, quota: Quota) -> None:
        fields = {"bytes": quota.bytes, "tokens": quota.tokens, "sessions": quota.sessions}
        limits = {name: limit for name, limit in fields.items() if limit is not None}
        keys = TenantKeys(self._prefix, tenant)
        async with self._control.guard() as client:
            if limits:
                await client.hset(keys.quota, mapping=limits)
            if len(limits) < len(fields):
                await client.hdel(keys.quota, *(fields.keys() - limits.keys()))
        if limits:
            await self.refresh(tenant)

    async def get(self, tenant: str) -> Quota:
        async with self._control.guard() as client:
            limits = await client.hmget(
                TenantKeys(self._prefix, tenant).quota, "bytes", "tokens", "sessions"
            )
        return Quota(*(None if limit is None else int(limit) for limit in limits))

    async def require(
        self, tenant: str, *, bytes: int = 0, tokens: int = 0, sessions: int = 0
    ) -> bool:
        """Whether the tenant has a quota at all. Raises QuotaExceeded if it would be exceeded by
        so much more."""
        more = (bytes, tokens, sessions)
        allowed, held = await self._look(tenant)
        if _excess(allowed, held, more) is not None:
            await self.refresh(tenant)
            allowed, held = await self._look(tenant)
        excess = _excess(allowed, held, more)
        if excess is not None:
            what, limit, has, adds = excess
            raise QuotaExceeded(
                f"tenant {tenant} may have {limit} {what}, has {has}, and this would add {adds}; "
                "nothing was committed. Delete or rewind sessions, or raise the quota."
            )
        return bool(allowed)

    async def mirror(self, tenant: str, lineages: Iterable[str]) -> None:
        """Copy what lineages have now to where the tenant's quota is checked."""
        keys = TenantKeys(self._prefix, tenant)
        waiting = iter(lineages)
        while batch := list(islice(waiting, _BATCH)):
            async with self._control.guard() as client:
                pipeline = client.pipeline(transaction=False)
                for lineage in batch:
                    pipeline.hmget(self._of(lineage).usage, "version", "bytes", "tokens")
                    pipeline.exists(self._of(lineage).sessions)
                replies = await pipeline.execute()
            calls = []
            for lineage, totals, lives in zip(batch, replies[::2], replies[1::2], strict=True):
                if totals[0] is not None:
                    calls.append(([keys.usage, keys.quota], [lineage, *totals]))
                elif not lives:
                    calls.append(([keys.usage, keys.quota], [lineage, "", 0, 0]))
            await self._control.run_many("mirror", calls)

    async def refresh(self, tenant: str) -> None:
        """Make all of a tenant's copies anew, and drop those of lineages that are no more."""
        keys = TenantKeys(self._prefix, tenant)
        async with self._control.guard() as client:
            known = {raw.decode() for raw in await client.hkeys(keys.usage)}
            listed = await client.zrange(keys.sessions, 0, -1)
        await self.mirror(tenant, sorted(known | {lineage_of(raw.decode()) for raw in listed}))

    async def recover(self) -> None:
        """Refresh all tenants that have, or had, a quota."""
        before = f"{self._prefix}:{{tenant:"
        async for found in self._control.scan(f"{before}*}}:usage"):
            for key in found:
                await self.refresh(key.decode().removeprefix(before).removesuffix("}:usage"))

    async def _look(self, tenant: str) -> tuple[list[bytes], list[int]]:
        keys = TenantKeys(self._prefix, tenant)
        reply = await self._control.run("quota", [keys.quota, keys.usage, keys.sessions])
        return reply[:3], reply[3:]

    def _of(self, lineage: str) -> LineageKeys:
        return LineageKeys(self._prefix, lineage)


def _excess(
    allowed: list[bytes], held: list[int], more: tuple[int, int, int]
) -> tuple[str, int, int, int] | None:
    for what, limit, has, adds in zip(
        ("bytes", "tokens", "sessions"), allowed, held, more, strict=False
    ):
        if limit and adds and has + adds > int(limit):
            return what, int(limit), has, adds
    return None
