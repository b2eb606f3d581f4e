"""Routes of items: JSON values that a framework keeps beside its conversations, by name."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import TorporError
from agent_runtime.http.document import problems
from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.lists import FewFields, Several
from state_store.errors import CorruptObject, StoreError
from state_store.store import StateStore

router = APIRouter(prefix="/v1/items", responses=problems(TorporError, StoreError))

Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:@-]{1,200}$")]
Limit = Annotated[int | None, Query(ge=0, le=1_000_000)]


class Items(BaseModel):
    """Any JSON values, the earliest first."""

    model_config = ConfigDict(extra="forbid")

    items: list[Any]


class AddedItems(FewFields):
    """To be put behind those that are there."""

    model_config = ConfigDict(extra="forbid")

    items: Several[Any] = Field(max_length=10_000)


class Popped(BaseModel):
    item: Any


@router.get("/{name}")
async def last(http: Request, name: Name, limit: Limit = None) -> Items:
    found = await _store(http).items.last(_tenant(http), name, limit)
    return Items(items=[_read(value, name) for value in found])


@router.post("/{name}", status_code=204)
async def add(http: Request, name: Name, request: AddedItems) -> Response:
    values = [json.dumps(item, ensure_ascii=False).encode() for item in request.items]
    ttl = _settings(http).conversation_ttl
    await _store(http).items.add(_tenant(http), name, values, ttl=ttl)
    return Response(status_code=204)


@router.post("/{name}/pop")
async def pop(http: Request, name: Name) -> Popped:
    found = await _store(http).items.pop(_tenant(http), name)
    return Popped(item=None if found is None else _read(found, name))


@router.delete("/{name}", status_code=204)
async def clear(http: Request, name: Name) -> Response:
    await _store(http).items.clear(_tenant(http), name)
    return Response(status_code=204)


def _store(http: Request) -> StateStore:
    store: StateStore = http.app.state.store
    return store


def _settings(http: Request) -> RuntimeSettings:
    settings: RuntimeSettings = http.app.state.settings
    return settings


def _tenant(http: Request) -> str:
    return current_tenant(_settings(http).tenant)


def _read(stored: bytes, name: str) -> Any:
    try:
        return json.loads(stored)
    except ValueError as error:
        raise CorruptObject(f"an item of {name} is damaged in the store: {error}") from error
