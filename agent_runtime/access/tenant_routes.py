"""Routes of tenants, for who runs the service: who there is, what each takes and what it may have.
Nothing that a tenant has said or stored is shown."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from agent_runtime.errors import TorporError
from agent_runtime.http.document import problems
from agent_runtime.http.headers import name_next
from agent_runtime.wire.tenants import TenantQuota, TenantView
from state_store.errors import StoreError
from state_store.quotas import Quota
from state_store.store import StateStore
from state_store.usage import Usage

router = APIRouter(prefix="/v1/tenants", responses=problems(TorporError, StoreError))

_Name = Annotated[str, Path(max_length=64)]


@router.get("")
async def tenants(
    http: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="A tenant's name.")] = None,
) -> list[TenantView]:
    """By name, and none that was deleted; the `Link` header leads to the next ones, if there are
    any."""
    found, following = await _store(http).page_of_tenants(limit=limit, after=after)
    name_next(response, router.prefix, limit=limit, after=following)
    return [
        TenantView(name=tenant.name, encrypted=tenant.encrypted, economy=tenant.economy)
        for tenant in found
    ]


@router.get("/{name}/usage")
async def usage(http: Request, name: _Name) -> Usage:
    """Counted by looking at all of the tenant's snapshots."""
    await _store(http).find_tenant(name)
    return await _store(http).usage_report(name)


@router.get("/{name}/quota")
async def quota(http: Request, name: _Name) -> TenantQuota:
    await _store(http).find_tenant(name)
    return TenantQuota.model_validate(vars(await _store(http).quota(name)))


@router.put("/{name}/quota")
async def set_quota(http: Request, name: _Name, request: TenantQuota) -> TenantQuota:
    """In place of the one that it has; what is there stays. A tenant that is new is made."""
    await _store(http).tenant(name)
    await _store(http).set_quota(name, Quota(**request.model_dump()))
    return request


def _store(http: Request) -> StateStore:
    store: StateStore = http.app.state.store
    return store
