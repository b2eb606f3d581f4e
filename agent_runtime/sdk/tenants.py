"""The tenants of a service, for who runs it: their quotas, and what they take."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from agent_runtime.sdk.errors import read
from agent_runtime.sdk.requests import Requests, path_of
from agent_runtime.wire.tenants import TenantQuota, TenantUsage, TenantView


class TenantsClient:
    """Needs a key of role operator. Every method raises ApiError or ApiUnreachable, and BadRequest
    for a name that no path can have."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def all(self, *, limit: int = 1000) -> AsyncGenerator[TenantView]:
        """By name, read `limit` at a time; none that was deleted."""
        async for row in self._requests.listed(f"/v1/tenants?limit={limit}"):
            yield read(TenantView, row)

    async def usage(self, name: str) -> TenantUsage:
        return read(
            TenantUsage, await self._requests.call("GET", path_of("tenants", name, "usage"))
        )

    async def quota(self, name: str) -> TenantQuota:
        return read(
            TenantQuota, await self._requests.call("GET", path_of("tenants", name, "quota"))
        )

    async def set_quota(self, name: str, quota: TenantQuota) -> TenantQuota:
        """In place of the one that it has. A tenant that is new is made."""
        path = path_of("tenants", name, "quota")
        return read(TenantQuota, await self._requests.call("PUT", path, quota.model_dump()))
