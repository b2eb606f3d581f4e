"""Which store a command works on: a server of the user's, or an embedded one of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from agent_runtime.deployment import Layout
from agent_runtime.environment import variable
from state_store.embedded import EmbeddedServer
from state_store.store import StateStore
from state_store.vault import Vault

DATA = Path(".torpor/data")

_Some = TypeVar("_Some")


def add_store_options(parser: argparse.ArgumentParser) -> None:
    add_data_option(parser)
    parser.add_argument("--redis", metavar="URL", default=None, help="instead of the embedded one")


def add_data_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the embedded store")


def add_archive_option(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument(
        "--archive",
        metavar="URL",
        default=None,
        required=required,
        help="where idle sessions go: file:///PATH, s3://BUCKET/PATH, gs://… or az://…",
    )


def add_master_key_option(
    parser: argparse.ArgumentParser, why: str, *, only_if_given: bool = False
) -> None:
    """Where the key is, and never the key itself: others see what stands in a command line.

    only_if_given: and not what the environment says
    """
    parser.add_argument(
        "--master-key",
        metavar="SOURCE",
        default=None if only_if_given else os.environ.get(variable("master_key_source")),
        help=f"master key, {why}: file:PATH or env:VARIABLE",
    )


def store_url(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[str]:
    """The store that these options, or else the environment, ask for: `store_at`."""
    url = arguments.redis or os.environ.get(variable("redis_url")) or None
    return store_at(url, arguments.data, getattr(arguments, "archive", None))


def in_store(arguments: argparse.Namespace, use: Callable[[StateStore], Awaitable[_Some]]) -> _Some:
    """What `use` gives of that store, opened with the archive and master key that these options
    name, if they do."""
    archive = getattr(arguments, "archive", None)
    key = getattr(arguments, "master_key", None)
    vault = None if key is None else Vault.load(key)

    async def used(url: str) -> _Some:
        async with await StateStore.connect(url, archive=archive, vault=vault) as store:
            return await use(store)

    with store_url(arguments) as url:
        return asyncio.run(used(url))


@contextlib.contextmanager
def store_at(url: str | None, data: Path, archive: str | None) -> Iterator[str]:
    """The store that was asked for; the embedded one lives as long as the block.

    That store and archive can be used is checked, so that a wrong URL is told at once and not
    after an engine has started.
    """

    async def check(url: str) -> None:
        async with await StateStore.connect(url, archive=archive):
            pass

    with contextlib.ExitStack() as undo:
        if url is None:
            url = undo.enter_context(EmbeddedServer(Layout(data).store)).url
        asyncio.run(check(url))
        yield url
