"""`torpor store`: looking after a store."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from agent_runtime.commands.store_options import (
    add_archive_option,
    add_master_key_option,
    add_store_options,
    in_store,
)
from agent_runtime.errors import BadRequest
from agent_runtime.sessions.effects_abroad import LedgerAbroad
from state_store.archive.policy import ArchivePolicy
from state_store.encodings import ECONOMIES, LOSSLESS
from state_store.integrity import Report
from state_store.quotas import Quota
from state_store.store import StateStore


def add_to(parser: argparse.ArgumentParser) -> None:
    subjects = parser.add_subparsers(dest="store_command", required=True)

    check = subjects.add_parser("check", help="prove that the store is consistent")
    check.add_argument("--repair", action="store_true", help="mend what can be; lose nothing alive")
    add_archive_option(check)
    add_store_options(check)
    check.set_defaults(run=_check)

    usage = subjects.add_parser("usage", help="what tenants take, one JSON line each")
    usage.add_argument("--tenant", default=None, help="default: all that have sessions")
    add_master_key_option(usage, "of encrypted tenants")
    add_store_options(usage)
    usage.set_defaults(run=_usage)

    quota = subjects.add_parser("set-quota", help="how much a tenant may have, of all there is")
    quota.add_argument("tenant", metavar="NAME")
    for what in ("bytes", "tokens", "sessions"):
        quota.add_argument(f"--{what}", type=_limit, metavar="N", help="default: no limit")
    add_store_options(quota)
    quota.set_defaults(run=_set_quota)

    create = subjects.add_parser("create-tenant", help="a new tenant, in the clear or encrypted")
    create.add_argument("tenant", metavar="NAME")
    add_master_key_option(create, "encrypt under this one", only_if_given=True)
    create.add_argument("--economy", choices=sorted(ECONOMIES), default=LOSSLESS)
    add_store_options(create)
    create.set_defaults(run=_create_tenant)

    delete = subjects.add_parser("delete-tenant", help="with all its sessions and keys, for good")
    delete.add_argument("tenant", metavar="NAME")
    add_store_options(delete)
    delete.set_defaults(run=_delete_tenant)

    rewrap = subjects.add_parser(
        "rewrap", help="wrap the keys of encrypted tenants by the newest master key"
    )
    rewrap.add_argument("tenants", metavar="NAME", nargs="+")
    add_master_key_option(rewrap, "the newest first, with those that are to go")
    add_store_options(rewrap)
    rewrap.set_defaults(run=_rewrap)

    export = subjects.add_parser("export", help="write a session to a file, unencrypted")
    export.add_argument("session", metavar="SESSION")
    export.add_argument("file", type=Path, metavar="FILE", help="a new one")
    export.add_argument(
        "--since", metavar="SNAPSHOT", default=None, help="merge what came before into this one"
    )
    export.add_argument("--archive", metavar="URL", default=None, help="if it may be archived")
    add_master_key_option(export, "if it is encrypted")
    add_store_options(export)
    export.set_defaults(run=_export)

    take = subjects.add_parser("import", help="make a new session from such a file")
    take.add_argument("file", type=Path, metavar="FILE")
    take.add_argument("--tenant", default="default", help="whose session it will be")
    add_master_key_option(take, "if the tenant is encrypted")
    add_store_options(take)
    take.set_defaults(run=_import)

    sweep = subjects.add_parser("sweep", help="move idle sessions to the archive")
    add_store_options(sweep)
    add_archive_option(sweep, required=True)
    sweep.add_argument("--idle", type=float, metavar="S", help="sessions not used for so long")
    sweep.add_argument(
        "--memory-watermark",
        type=_watermark,
        metavar="HIGH[:LOW]",
        help="when Redis uses more than HIGH, the idlest until it uses LOW (default: HIGH); "
        "bytes, or fractions of maxmemory such as 0.8:0.6",
    )
    sweep.add_argument(
        "--tenant-quota", type=int, metavar="BYTES", help="what one tenant may have in Redis"
    )
    sweep.add_argument(
        "--spare",
        type=float,
        default=ArchivePolicy().spare,
        metavar="S",
        help="sessions used within them are moved for no reason",
    )
    sweep.set_defaults(run=_sweep)

    back = subjects.add_parser("bring-back", help="move a session from the archive to Redis")
    add_store_options(back)
    add_archive_option(back, required=True)
    back.add_argument("session", help="or a snapshot, for the history up to it")
    back.set_defaults(run=_bring_back)


def _check(arguments: argparse.Namespace) -> int:
    """1 if there are problems left, else 0."""
    report = in_store(arguments, lambda store: store.check_integrity(repair=arguments.repair))
    _show(report)
    return 1 if report.problems else 0


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


def _usage(arguments: argparse.Namespace) -> int:
    async def show(store: StateStore) -> None:
        one = arguments.tenant
        if one is not None:
            await store.find_tenant(one)
        for tenant in await store.tenants() if one is None else [one]:
            print(json.dumps(dataclasses.asdict(await store.usage_report(tenant))))

    in_store(arguments, show)
    return 0


def _set_quota(arguments: argparse.Namespace) -> int:
    quota = Quota(arguments.bytes, arguments.tokens, arguments.sessions)

    async def limit(store: StateStore) -> None:
        await store.tenant(arguments.tenant)
        await store.set_quota(arguments.tenant, quota)

    in_store(arguments, limit)
    print(json.dumps({"tenant": arguments.tenant, **dataclasses.asdict(quota)}))
    return 0


def _create_tenant(arguments: argparse.Namespace) -> int:
    encrypted = arguments.master_key is not None
    tenant = in_store(
        arguments,
        lambda store: store.create_tenant(
            arguments.tenant, encrypted=encrypted, economy=arguments.economy
        ),
    )
    print(f"{tenant.name}: {'encrypted' if encrypted else 'in the clear'}, {tenant.economy}")
    return 0


def _delete_tenant(arguments: argparse.Namespace) -> int:
    deleted = in_store(arguments, lambda store: store.delete_tenant(arguments.tenant))
    print(f"{deleted} sessions were deleted")
    return 0


def _rewrap(arguments: argparse.Namespace) -> int:
    async def rewrap(store: StateStore) -> None:
        for tenant in arguments.tenants:
            await store.rewrap_tenant(tenant)
            key = await store.master_key_id(tenant)
            print(f"{tenant}: {'in the clear' if key is None else f'master key {key}'}")

    in_store(arguments, rewrap)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    done = in_store(
        arguments,
        lambda store: store.export_session(
            arguments.session, arguments.file, since=arguments.since, effects=LedgerAbroad()
        ),
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


def _import(arguments: argparse.Namespace) -> int:
    session = in_store(
        arguments,
        lambda store: store.import_session(
            arguments.file, tenant=arguments.tenant, durability="fsync", effects=LedgerAbroad()
        ),
    )
    print(session.id)
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    high, low = arguments.memory_watermark or (None, None)
    policy = ArchivePolicy(
        idle=arguments.idle,
        memory_high=high,
        memory_low=low,
        tenant_quota_bytes=arguments.tenant_quota,
        spare=arguments.spare,
    )
    if policy == ArchivePolicy(spare=arguments.spare):
        raise BadRequest(
            "there is no reason to move anything: give --idle, --memory-watermark or "
            "--tenant-quota."
        )
    report = in_store(arguments, lambda store: store.sweep(policy))
    for swept in report.sessions:
        moved = swept.moved
        print(
            f"{swept.session_id} ({swept.reason}): {moved.objects} objects moved "
            f"({moved.bytes} bytes), {moved.busy} in use, {moved.left} left"
        )
        for problem in moved.problems:
            print(f"problem: {problem}")
    for problem in report.problems:
        print(f"problem: {problem}")
    print(
        f"{len(report.sessions)} sessions, {report.objects} objects ({report.bytes} bytes) "
        f"moved; {report.claimed} sessions left to other sweepers"
    )
    if report.collected:
        print(f"{report.collected} archived objects that nothing holds any more deleted")
    moved_badly = any(swept.moved.problems for swept in report.sessions)
    return 1 if moved_badly or report.problems else 0


def _bring_back(arguments: argparse.Namespace) -> int:
    moved = in_store(arguments, lambda store: store.bring_back(arguments.session))
    print(
        f"{moved.objects} objects ({moved.bytes} bytes) are back in Redis, "
        f"{moved.already} were there"
    )
    return 0


def _limit(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _watermark(text: str) -> tuple[float, float] | tuple[int, int]:
    high, _, low = text.partition(":")
    if high.isdecimal():
        return int(high), int(low or high)
    return float(high), float(low or high)
