"""`POST /v1/chat/completions`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from agent_runtime.caller.standing import while_admitted
from agent_runtime.errors import TorporError
from agent_runtime.http.document import Responses, content
from agent_runtime.http.headers import Key
from agent_runtime.http.metrics import Metrics
from agent_runtime.http.streaming import EventStream, last_of, streamed_as
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.openai_api.chat_answer import Answering
from agent_runtime.openai_api.chat_models import ChatRequest, require_supported
from agent_runtime.openai_api.chat_request import conversation_of
from agent_runtime.openai_api.errors import refusals, told
from agent_runtime.openai_api.messages import Ids
from agent_runtime.openai_api.served import served
from agent_runtime.sessions.choices import Choices
from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.events import TurnEvent
from agent_runtime.wire.problems import Problem
from agent_runtime.wire.turns import TurnResult
from engine.errors import EngineError
from state_store.errors import StoreError

_COMPLETION = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
        "usage": {"type": "object"},
    },
}
_ANSWERS: Responses = {
    200: {
        "description": "The completion, or a stream of its chunks.",
        "content": {
            "application/json": {"schema": _COMPLETION},
            **content(EventStream.media_type, "`chat.completion.chunk`s, then [DONE]")["content"],
        },
    },
    **refusals(TorporError, StoreError, EngineError),
}

router = APIRouter(prefix="/v1")


@router.post("/chat/completions", response_model=None, responses=_ANSWERS)
async def complete(http: Request, request: ChatRequest, key: Key = None) -> Response:
    """OpenAI's chat completions: see docs/openai.md."""
    settings: RuntimeSettings = http.app.state.settings
    choices: Choices = http.app.state.choices
    stateless = served(http).is_stateless(request.model)
    require_supported(request)
    chat: ChatFormat | None = None if stateless else http.app.state.chat
    asked = conversation_of(
        request, chat, stateless=stateless, answer_tokens=settings.answer_tokens
    )
    answering = Answering(
        request.model,
        Ids(key),
        asked.tools,
        chat,
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )
    events = _counted(http, choices.run(asked, request.n or 1, key=key))
    if not request.stream:
        results = await last_of(http, _results(events))
        return JSONResponse(answering.completion(results))
    options = request.stream_options
    with_usage = options is not None and options.include_usage
    return await streamed_as(http, answering.chunks(events, include_usage=with_usage), _failed)


async def _counted(
    http: Request, events: AsyncGenerator[tuple[int, TurnEvent]]
) -> AsyncGenerator[tuple[int, TurnEvent]]:
    metrics: Metrics = http.app.state.metrics
    async with contextlib.aclosing(while_admitted(events)) as admitted:
        async for number, event in admitted:
            if isinstance(event, TurnResult):
                metrics.turn(event)
            yield number, event


async def _results(
    events: AsyncGenerator[tuple[int, TurnEvent]],
) -> AsyncGenerator[list[TurnResult]]:
    """All of them, in their order, at the end."""
    async with contextlib.aclosing(events):
        results = {n: event async for n, event in events if isinstance(event, TurnResult)}
    yield [results[number] for number in sorted(results)]


def _failed(problem: Problem) -> str:
    return f"data: {json.dumps(told(problem)[1], ensure_ascii=False)}\n\n"
