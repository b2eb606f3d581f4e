"""`torpor mcp`: the tools of a service for an agent that starts MCP servers as programs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from mcp.server.stdio import stdio_server

from agent_runtime.errors import SetupError
from agent_runtime.mcp_server.server import make_server
from agent_runtime.sdk import Torpor


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8700", help="of the service")
    parser.add_argument(
        "--key-variable",
        metavar="NAME",
        default=None,
        help="environment variable that holds the API key, if the service asks for one",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    asyncio.run(_serve(arguments.url, _key(arguments.key_variable)))
    return 0


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise SetupError(f"--key-variable names {variable}, which is not set.")
    return os.environ[variable]


async def _serve(url: str, key: str | None) -> None:
    """Until the input ends."""
    async with Torpor(url, api_key=key) as torpor:

        @contextlib.asynccontextmanager
        async def connect() -> AsyncIterator[Torpor]:
            yield torpor

        server = make_server(connect)
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
