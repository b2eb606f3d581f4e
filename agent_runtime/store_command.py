"""`torpor store`: looking after a store."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from agent_runtime.store_options import add_store_options, store_url
from state_store.integrity import Report
from state_store.store import StateStore


def add_to(commands: Any) -> None:
    """commands: what `ArgumentParser.add_subparsers` returned."""
    store = commands.add_parser("store", help="look after the store")
    subjects = store.add_subparsers(dest="store_command", required=True)

    check = subjects.add_parser("check", help="prove that the store is consistent")
    check.add_argument("--repair", action="store_true", help="mend what can be; lose nothing alive")
    add_store_options(check)
    check.set_defaults(run=_check)

    export = subjects.add_parser("export", help="write a session to a file, unencrypted")
    export.add_argument("session", metavar="SESSION")
    export.add_argument("file", type=Path, metavar="FILE", help="a new one")
    export.add_argument(
        "--since", metavar="SNAPSHOT", default=None, help="merge what came before into this one"
    )
    export.add_argument("--archive", metavar="URL", default=None, help="if it may be archived")
    add_store_options(export)
    export.set_defaults(run=_export)

    take = subjects.add_parser("import", help="make a new session from such a file")
    take.add_argument("file", type=Path, metavar="FILE")
    take.add_argument("--tenant", default="default", help="whose session it will be")
    add_store_options(take)
    take.set_defaults(run=_import)


def _check(arguments: argparse.Namespace) -> int:
    """1 if there are problems left, else 0."""

    async def check(url: str) -> int:
        async with await StateStore.connect(url) as store:
            report = await store.check_integrity(repair=arguments.repair)
        _show(report)
        return 1 if report.problems else 0

    with store_url(arguments) as url:
        return asyncio.run(check(url))


def _show(report: Report) -> None:
    print(
        f"{report.sessions} sessions, {report.snapshots} snapshots, {report.objects} objects "
        f"({report.object_bytes} bytes), {report.unheld} objects that will expire"
    )
    if report.archived:
        read = f", {report.archived_bytes} bytes read" if report.archived_bytes else ""
        print(f"{report.archived} objects in the archive{read}")
    for problem in report.repaired:
        print(f"repaired: {problem.kind}: {problem}")
    for problem in report.problems:
        print(f"problem: {problem.kind}: {problem}")
    mendable = len(report.repairable)
    if mendable:
        print(f"{mendable} of {len(report.problems)} problems can be mended: add --repair")
    if len(report.problems) > mendable:
        print(
            f"{len(report.problems) - mendable} problems cannot be mended: sessions that need what "
            "is missing or damaged compute it again from their tokens, or are lost with them"
        )


def _export(arguments: argparse.Namespace) -> int:
    async def export(url: str) -> int:
        async with await StateStore.connect(url, archive=arguments.archive) as store:
            done = await store.export_session(
                arguments.session, arguments.file, since=arguments.since
            )
        print(
            f"{done.path}: {done.snapshots} snapshots, {done.tokens} tokens, {done.file_bytes} "
            f"bytes, manifest {done.digest}"
        )
        if done.decrypted:
            print(
                "torpor: the session is encrypted in the store, and not in the file",
                file=sys.stderr,
            )
        return 0

    with store_url(arguments) as url:
        return asyncio.run(export(url))


def _import(arguments: argparse.Namespace) -> int:
    async def take(url: str) -> int:
        async with await StateStore.connect(url) as store:
            session = await store.import_session(
                arguments.file, tenant=arguments.tenant, durability="fsync"
            )
        print(session.id)
        return 0

    with store_url(arguments) as url:
        return asyncio.run(take(url))
