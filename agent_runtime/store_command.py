"""`torpor store`: looking after a store."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from agent_runtime.store_options import add_store_options, store_url
from state_store.store import StateStore


def add_to(commands: Any) -> None:
    """commands: what `ArgumentParser.add_subparsers` returned."""
    store = commands.add_parser("store", help="look after the store")
    subjects = store.add_subparsers(dest="store_command", required=True)

    check = subjects.add_parser("check", help="prove that the store is consistent")
    add_store_options(check)
    check.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    async def check(url: str) -> int:
        async with await StateStore.connect(url) as store:
            report = await store.check_integrity()
        print(
            f"{report.sessions} sessions, {report.snapshots} snapshots, {report.objects} objects "
            f"({report.object_bytes} bytes), {report.unheld} objects that will expire"
        )
        for problem in report.problems:
            print(f"problem: {problem}")
        return 1 if report.problems else 0

    with store_url(arguments) as url:
        return asyncio.run(check(url))
