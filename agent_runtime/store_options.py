"""Which store a command works on: a server of the user's, or an embedded one of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from agent_runtime.processes import Layout
from state_store.embedded import EmbeddedServer
from state_store.store import StateStore

DATA = Path(".torpor/data")


def add_store_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the embedded store")
    parser.add_argument("--redis", metavar="URL", default=None, help="instead of the embedded one")


@contextlib.contextmanager
def store_url(arguments: argparse.Namespace) -> Iterator[str]:
    """The store that was asked for; the embedded one lives as long as the block."""
    if arguments.redis is not None:

        async def answers() -> None:
            async with await StateStore.connect(arguments.redis):
                pass

        asyncio.run(answers())  # a wrong URL is told at once, not after the engine has started
        yield arguments.redis
        return
    with EmbeddedServer(Layout(arguments.data).store) as embedded:
        yield embedded.url
