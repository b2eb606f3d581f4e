"""`torpor serve`: one runtime."""

from __future__ import annotations

import argparse
import asyncio

from agent_runtime.commands import runtime_options
from agent_runtime.configuration import configured
from agent_runtime.service.server import serve


def add_to(parser: argparse.ArgumentParser) -> None:
    runtime_options.add_to(parser)
    parser.set_defaults(run=_run, until_stopped=True)


def _run(arguments: argparse.Namespace) -> int:
    asyncio.run(serve(configured(runtime_options.values_of(arguments))))
    return 0
