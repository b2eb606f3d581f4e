"""`/v1/responses`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse

from agent_runtime.errors import TorporError
from agent_runtime.http.document import Responses as Documented
from agent_runtime.http.document import content
from agent_runtime.http.headers import Key
from agent_runtime.http.streaming import EventStream, last_of, streamed_as
from agent_runtime.openai_api.errors import refusals
from agent_runtime.openai_api.responses.events import Told
from agent_runtime.openai_api.responses.paging import Paged
from agent_runtime.openai_api.responses.requests import (
    CreateResponse,
    require_includable,
    unsupported,
)
from agent_runtime.openai_api.responses.service import Responses
from agent_runtime.wire.problems import Problem
from engine.errors import EngineError
from state_store.errors import StoreError

router = APIRouter(prefix="/v1/responses", responses=refusals(TorporError, StoreError, EngineError))

_RESPONSE = {
    "type": "object",
    "required": ["id", "object", "status", "output"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "response"},
        "status": {"type": "string"},
        "output": {"type": "array", "items": {"type": "object"}},
    },
}
_ANSWERS: Documented = {
    200: {
        "description": "The response, or a stream of its events.",
        "content": {
            "application/json": {"schema": _RESPONSE},
            **content(EventStream.media_type, "`response.created` to the last")["content"],
        },
    }
}


def _responses(http: Request) -> Responses:
    found: Responses = http.app.state.responses
    return found


Asked = Annotated[Responses, Depends(_responses)]


@router.post("", response_model=None, responses=_ANSWERS)
async def create(
    http: Request, responses: Asked, request: CreateResponse, key: Key = None
) -> Response:
    if request.background:
        return JSONResponse(await responses.begin(request, key=key))
    events = responses.create(request, key=key)
    if request.stream:
        written = _Written(events)
        return await streamed_as(http, written.pieces(), written.failed)
    return JSONResponse((await last_of(http, events))["response"])


@router.post("/input_tokens", include_in_schema=False)
@router.post("/compact", include_in_schema=False)
async def not_served() -> None:
    """OpenAI's; without a route they would be taken for ids."""
    raise HTTPException(404)


@router.get("/{response_id}")
async def get(
    responses: Asked,
    response_id: str,
    stream: bool = False,
    starting_after: int | None = None,
    include: Annotated[list[str] | None, Query()] = None,
    include_more: Annotated[list[str] | None, Query(alias="include[]")] = None,
) -> dict[str, Any]:
    require_includable([*(include or ()), *(include_more or ())])
    if stream or starting_after is not None:
        raise unsupported("stream", "events are not kept; a response is, when it is whole")
    return await responses.get(response_id)


@router.delete("/{response_id}")
async def delete(responses: Asked, response_id: str) -> dict[str, Any]:
    await responses.delete(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.post("/{response_id}/cancel")
async def cancel(responses: Asked, response_id: str) -> dict[str, Any]:
    return await responses.cancel(response_id)


@router.get("/{response_id}/input_items")
async def input_items(responses: Asked, response_id: str, page: Paged) -> dict[str, Any]:
    """All that the model read for it: what came before, and the items of the request."""
    return page.of(await responses.input_items(response_id))


class _Written:
    """Events as they are sent."""

    def __init__(self, events: AsyncGenerator[Told]) -> None:
        self._events = events
        self._next = 0

    async def pieces(self) -> AsyncGenerator[str]:
        # Closed even if the client goes away, so that the lease is given back at once.
        async with contextlib.aclosing(self._events):
            async for told in self._events:
                self._next = told["sequence_number"] + 1
                yield _one(told)

    def failed(self, problem: Problem) -> str:
        """What goes wrong when the response is no more to be told of: see `Creation.events`."""
        told = {"code": problem.code, "message": problem.detail, "param": problem.param}
        return _one({"type": "error", **told, "sequence_number": self._next})


def _one(told: Told) -> str:
    return f"event: {told['type']}\ndata: {json.dumps(told, ensure_ascii=False)}\n\n"
