"""Routes of `sessions/holding.py`: commands about where the state of a session's head is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request

from agent_runtime.errors import TorporError
from agent_runtime.http.document import problems
from agent_runtime.sessions.holding import Holding
from agent_runtime.wire.residency import (
    Dropped,
    Held,
    HoldRequest,
    Persisted,
    PersistRequest,
    Released,
)
from engine.errors import EngineError
from state_store.errors import StoreError

router = APIRouter(
    prefix="/v1/sessions/{session_id}", responses=problems(TorporError, StoreError, EngineError)
)


def _holding(request: Request) -> Holding:
    holding: Holding = request.app.state.holding
    return holding


_Holding = Annotated[Holding, Depends(_holding)]
_Persist = Annotated[PersistRequest, Body(default_factory=PersistRequest)]
_Hold = Annotated[HoldRequest, Body(default_factory=HoldRequest)]


@router.post("/persist")
async def persist(
    session_id: str,
    request: _Persist,
    holding: _Holding,
) -> Persisted:
    return await holding.persist(session_id, request)


@router.post("/hold")
async def hold(
    session_id: str,
    request: _Hold,
    holding: _Holding,
) -> Held:
    return await holding.hold(session_id, request)


@router.post("/release")
async def release(session_id: str, holding: _Holding) -> Released:
    return await holding.release(session_id)


@router.post("/drop")
async def drop(session_id: str, holding: _Holding) -> Dropped:
    return await holding.drop(session_id)
