"""`/v1/messages`, and how many tokens one would have."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse

from agent_runtime.anthropic_api.answers import Answer, Event
from agent_runtime.anthropic_api.errors import documented, told
from agent_runtime.anthropic_api.reading import (
    conversation_of,
    messages_of,
    prompt_options,
    specs_of,
)
from agent_runtime.anthropic_api.request import CountRequest, MessagesRequest
from agent_runtime.errors import TorporError, Unsupported
from agent_runtime.http.headers import Key
from agent_runtime.http.streaming import counted, last_of, streamed_as
from agent_runtime.messages.aside import aside
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.openai_api.messages import Ids
from agent_runtime.openai_api.served import served
from agent_runtime.sessions.conversations import Conversations
from agent_runtime.wire.problems import Problem
from agent_runtime.wire.turns import TurnResult
from engine.errors import EngineError
from state_store.errors import StoreError

router = APIRouter(
    prefix="/v1/messages", responses=documented(TorporError, StoreError, EngineError)
)
Version = Annotated[Literal["2023-06-01", "2026-10-21"], Header(alias="anthropic-version")]
"""What they have in common is served; see docs/anthropic.md."""


@router.post("", response_model=None)
async def create(
    http: Request, request: MessagesRequest, version: Version, key: Key = None
) -> Response:
    """A message; with `stream`, Anthropic's server-sent events."""
    chat: ChatFormat | None = http.app.state.chat
    conversations: Conversations = http.app.state.conversations
    stateless = served(http).is_stateless(request.model)
    asked = conversation_of(request, None if stateless else chat, stateless=stateless)
    turn = counted(http, conversations.run(asked, key=key))
    answer = Answer(
        Ids(key), model=request.model, tools=asked.tools, thinking=request.shows_thinking
    )
    if not request.stream:
        result = await last_of(http, turn)
        assert isinstance(result, TurnResult), "a turn ends with its result"
        return JSONResponse(answer.message(result))
    return await streamed_as(http, _written(answer.events(turn)), _failed)


@router.post("/count_tokens")
async def count_tokens(http: Request, request: CountRequest, version: Version) -> dict[str, int]:
    """Of the whole prompt, as the model's template shows it."""
    chat: ChatFormat | None = http.app.state.chat
    if served(http).is_stateless(request.model) or chat is None:
        raise Unsupported(
            f"tokens of {request.model} cannot be counted here: its endpoint has the tokenizer, "
            "and counts them when it answers.",
            param="model",
        )
    options = prompt_options(request, chat)
    said = messages_of(request)
    system = said.pop(0).content if said[0].role == "system" else None
    tools = specs_of(request.tools)
    prompt = await aside(said, chat.opening, said, system=system, tools=tools, options=options)
    return {"input_tokens": len(prompt)}


async def _written(events: AsyncGenerator[Event]) -> AsyncGenerator[str]:
    async with contextlib.aclosing(events):
        async for event in events:
            yield _one(event)


def _failed(problem: Problem) -> str:
    return _one(told(problem)[1])


def _one(event: Event) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
