"""Routes of a tenant's API keys, for its admins."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from agent_runtime.caller.identity import current_tenant
from agent_runtime.http.document import problems
from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.lists import FewFields
from state_store.api_keys import ApiKey, ApiKeys, Role, TenantRole
from state_store.errors import StoreError

router = APIRouter(prefix="/v1/keys", responses=problems(StoreError))


class CreateKey(FewFields, strict=True):
    """See `ApiKey`. expires_in: seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: TenantRole = "use"
    name: str = Field(default="", max_length=128)
    expires_in: float | None = Field(default=None, gt=0)
    per_minute: int | None = Field(default=None, gt=0)


class KeyView(BaseModel):
    """See `ApiKey`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str
    id: str
    role: Role
    name: str
    created_at: float
    expires_at: float | None
    per_minute: int | None


class CreatedKey(KeyView):
    """`key` is what its owner sends. It is told this once."""

    key: str


@router.post("", status_code=201)
async def create(http: Request, request: CreateKey) -> CreatedKey:
    key, text = await _keys(http).create(
        _tenant(http),
        role=request.role,
        name=request.name,
        expires_in=request.expires_in,
        per_minute=request.per_minute,
    )
    return CreatedKey(**dataclasses.asdict(key), key=text)


@router.get("")
async def list_keys(http: Request) -> list[KeyView]:
    return [_view(key) for key in await _keys(http).of(_tenant(http))]


@router.delete("/{key_id}", status_code=204)
async def revoke(http: Request, key_id: str) -> Response:
    """Runtimes that have just seen the key believe it for 5 seconds more."""
    await _keys(http).revoke(_tenant(http), key_id)
    return Response(status_code=204)


def _keys(http: Request) -> ApiKeys:
    keys: ApiKeys = http.app.state.store.keys
    return keys


def _tenant(http: Request) -> str:
    settings: RuntimeSettings = http.app.state.settings
    return current_tenant(settings.tenant)


def _view(key: ApiKey) -> KeyView:
    return KeyView(**dataclasses.asdict(key))
