"""Routes of the ledger of effects, for who runs tools outside this process."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import BadRequest, TorporError
from agent_runtime.http.document import problems
from agent_runtime.sessions.ledger import StoreLedger
from agent_runtime.wire.effects import Entries, FoundEntry
from state_store.errors import StoreError
from tools.effects import Entry
from tools.errors import ToolsError

router = APIRouter(
    prefix="/v1/sessions/{session_id}/effects",
    responses=problems(TorporError, StoreError, ToolsError),
)


def _ledger(request: Request) -> StoreLedger:
    state = request.app.state
    return StoreLedger(state.store, tenant=current_tenant(state.settings.tenant))


_Ledger = Annotated[StoreLedger, Depends(_ledger)]


@router.get("")
async def entries(
    session_id: str,
    ledger: _Ledger,
    lineage: Annotated[bool, Query(description="Also of all branches of its history.")] = False,
) -> Entries:
    """In the order they were started."""
    return Entries(entries=await ledger.of(session_id, lineage=lineage))


@router.post("/find")
async def find(session_id: str, entry: Entry, ledger: _Ledger) -> FoundEntry:
    return FoundEntry(entry=await ledger.find(_of(session_id, entry)))


@router.post("/begin")
async def begin(session_id: str, entry: Entry, ledger: _Ledger) -> FoundEntry:
    return FoundEntry(entry=await ledger.begin(_of(session_id, entry)))


@router.post("/end", status_code=204)
async def end(session_id: str, entry: Entry, ledger: _Ledger) -> Response:
    await ledger.end(_of(session_id, entry))
    return Response(status_code=204)


@router.post("/inherited")
async def inherited(session_id: str, entry: Entry, ledger: _Ledger) -> Entries:
    return Entries(entries=await ledger.inherited(_of(session_id, entry)))


def _of(session_id: str, entry: Entry) -> Entry:
    if entry.branch != session_id:
        raise BadRequest(f"the entry is of {entry.branch}, not of {session_id}; nothing was done.")
    return entry
