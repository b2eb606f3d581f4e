"""Routes of snapshots by themselves: one is looked at, labelled, and found by its labels."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import TorporError
from agent_runtime.http.document import problems
from agent_runtime.http.headers import name_next
from agent_runtime.sessions.listing import Listing, labels_of
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.sessions import LabelsRequest, SnapshotView
from state_store.errors import StoreError

router = APIRouter(prefix="/v1/snapshots", responses=problems(TorporError, StoreError))


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


def _tenant(request: Request) -> str:
    settings: RuntimeSettings = request.app.state.settings
    return current_tenant(settings.tenant)


Asked = Annotated[Sessions, Depends(_sessions)]
Tenant = Annotated[str, Depends(_tenant)]


@router.get("")
async def find_snapshots(
    http: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: str | None = None,
    label: Annotated[
        list[str], Query(description="NAME=VALUE; snapshots with all of these labels.")
    ] = [],  # noqa: B006
) -> list[SnapshotView]:
    """Newest first; the `Link` header leads to the next ones, if there are any. At least one label
    is asked for."""
    listing: Listing = http.app.state.listing
    views, following = await listing.page_of_snapshots(labels_of(label), limit=limit, after=after)
    name_next(response, router.prefix, limit=limit, after=following, label=label)
    return views


@router.get("/{snapshot_id}")
async def get(sessions: Asked, tenant: Tenant, snapshot_id: str) -> SnapshotView:
    return await sessions.snapshot(snapshot_id, tenant=tenant)


@router.put("/{snapshot_id}/labels")
async def set_labels(
    sessions: Asked, tenant: Tenant, snapshot_id: str, request: LabelsRequest
) -> SnapshotView:
    """In place of those that it has. It keeps them for as long as a session reaches it."""
    return await sessions.label_snapshot(snapshot_id, request.labels, tenant=tenant)
