"""A runtime in this process, over the shared store and engine, with settings of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import uvicorn

from agent_runtime.demo.stage import Stage
from agent_runtime.sdk import Torpor
from agent_runtime.service.api import create_app
from agent_runtime.service.connections import Connection
from agent_runtime.settings import RuntimeSettings
from engine.launch import free_port


@contextlib.asynccontextmanager
async def served(stage: Stage, **settings: object) -> AsyncIterator[Torpor]:
    """settings: fields of `RuntimeSettings`"""
    given = {"redis_url": stage.store.url, "model_dir": stage.model, **settings}
    async with listening(RuntimeSettings.model_validate(given)) as url, Torpor(url) as torpor:
        yield torpor


@contextlib.asynccontextmanager
async def listening(settings: RuntimeSettings) -> AsyncIterator[str]:
    """Its URL."""
    app = create_app(settings)
    port = free_port()
    server = _Server(uvicorn.Config(app, port=port, http=Connection, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    await server.is_up.wait()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: object = None) -> None:
        await super().startup()
        self.is_up.set()
