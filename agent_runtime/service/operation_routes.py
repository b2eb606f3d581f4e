"""Routes for who runs the service: is it alive, can it serve, what has it counted."""

from __future__ import annotations

import contextlib

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict

from agent_runtime.feed.following import Followers
from agent_runtime.http.document import problems
from agent_runtime.http.metrics import Metrics
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.turns import Turns
from engine.pool import Engine, EnginePool
from state_store.errors import StoreError

router = APIRouter(responses=problems(StoreError))


class Readiness(BaseModel):
    """`ready`: whether a turn would be served. `reason`: why not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ready: bool
    engines: int
    reason: str | None = None


@router.get("/ready", responses={503: {"model": Readiness}})
async def ready(request: Request, response: Response) -> Readiness:
    """503 while no turn could be served: the store is gone, there is no engine or backend, or the
    service is being stopped."""
    pool: EnginePool = request.app.state.pool
    settings: RuntimeSettings = request.app.state.settings
    turns: Turns = request.app.state.turns
    engines, reason = 0, None
    try:
        engines = len(await pool.records())
        if turns.cancelling.is_draining:
            reason = "it is being stopped"
        elif not engines and settings.backend is None:
            reason = "no engine is registered in the store"
    except StoreError as error:
        reason = str(error)
    if reason is not None:
        response.status_code = 503
    return Readiness(ready=reason is None, engines=engines, reason=reason)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    await look(request.app)
    counted: Metrics = request.app.state.metrics
    return Response(counted.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def look(app: FastAPI) -> None:
    """Have the metrics say what there is now."""
    pool: EnginePool = app.state.pool
    turns: Turns = app.state.turns
    followers: Followers = app.state.followers
    metrics: Metrics = app.state.metrics
    engines: list[Engine] = []
    with contextlib.suppress(StoreError):
        engines = await pool.engines()
    metrics.now(engines=len(engines), slots=turns.admission.status(), streams=followers.readers)
    await metrics.engines.look(engines)
