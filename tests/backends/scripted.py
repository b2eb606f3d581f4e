"""A runtime in this process over a store and an endpoint that answers as a test says."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
from fastapi import FastAPI

from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings
from engine.backends.settings import BackendSettings
from tests.backends.endpoint import DONE, Endpoint, Scripted, event


@contextlib.asynccontextmanager
async def scripted_runtime(
    redis_url: str, endpoint: Endpoint, **settings: Any
) -> AsyncIterator[FastAPI]:
    """settings: fields of `RuntimeSettings`"""
    backend = BackendSettings(url=endpoint.url, model="scripted")
    app = create_app(
        RuntimeSettings(redis_url=redis_url, backend=backend, allowed_hosts="scripted", **settings)
    )
    async with app.router.lifespan_context(app):
        yield app


def client_of(app: FastAPI, *, key: str = "none") -> openai.AsyncOpenAI:
    """OpenAI's own client."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return openai.AsyncOpenAI(
        base_url="http://scripted/v1",
        api_key=key,
        max_retries=0,
        http_client=httpx.AsyncClient(transport=transport),
    )


async def forget(app: FastAPI, key: str) -> None:
    """As if the claim of the key had expired."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert await app.state.store.notes.get("default", [f"key:{digest}"]) != [None]
    await app.state.store.notes.delete("default", f"key:{digest}")


def says(*deltas: dict[str, Any], finish: str = "stop", cached: int = 0) -> Scripted:
    """An answer in so many pieces."""
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    body = "".join(map(event, deltas)) + event(finish_reason=finish) + event(usage=usage) + DONE
    return Scripted(body)


def call(name: str, call_id: str, **arguments: Any) -> dict[str, Any]:
    """A piece that is a whole call."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"index": 0, "id": call_id, "type": "function", "function": function}]}


def sent(said: Endpoint, place: int = -1) -> list[tuple[str, str]]:
    """Roles and texts of the messages in one request to the endpoint."""
    return [(one["role"], one["content"]) for one in said.seen[place][1]["messages"]]
