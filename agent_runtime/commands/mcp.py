"""`torpor mcp`: the tools of a service for an agent that starts MCP servers as programs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator

from mcp.server.stdio import stdio_server

from agent_runtime.commands import service_options
from agent_runtime.mcp_server.server import make_server
from agent_runtime.sdk import Torpor


def add_to(parser: argparse.ArgumentParser) -> None:
    service_options.add_to(parser)
    parser.set_defaults(run=_run, until_stopped=True)


def _run(arguments: argparse.Namespace) -> int:
    asyncio.run(_serve(arguments.url, service_options.api_key(arguments.key_variable)))
    return 0


async def _serve(url: str, key: str | None) -> None:
    """Until the input ends."""
    async with Torpor(url, api_key=key) as torpor:

        @contextlib.asynccontextmanager
        async def connect() -> AsyncIterator[Torpor]:
            yield torpor

        server = make_server(connect)
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
