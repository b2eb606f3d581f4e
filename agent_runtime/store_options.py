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


def add_archive_option(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument(
        "--archive",
        metavar="URL",
        default=None,
        required=required,
        help="where idle sessions go: file:///PATH, s3://BUCKET/PATH, gs://… or az://…",
    )


@contextlib.contextmanager
def store_url(arguments: argparse.Namespace) -> Iterator[str]:
    """The store that was asked for; the embedded one lives as long as the block.

    That store and archive can be used is checked, so that a wrong URL is told at once and not
    after an engine has started.
    """

    async def check(url: str) -> None:
        async with await StateStore.connect(url, archive=getattr(arguments, "archive", None)):
            pass

    with contextlib.ExitStack() as undo:
        url = arguments.redis
        if url is None:
            url = undo.enter_context(EmbeddedServer(Layout(arguments.data).store)).url
        asyncio.run(check(url))
        yield url
