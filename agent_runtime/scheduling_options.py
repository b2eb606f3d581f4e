"""The options of commands that share an engine's slots between sessions."""

from __future__ import annotations

import argparse

from agent_runtime.scheduling.policies import POLICIES
from agent_runtime.settings import SchedulingSettings

_DEFAULTS = SchedulingSettings()


def add_to(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("more sessions than slots: docs/scheduling.md")
    group.add_argument(
        "--policy",
        choices=POLICIES,
        default=_DEFAULTS.policy,
        help=f"who leaves the device first; default: {_DEFAULTS.policy}",
    )
    group.add_argument(
        "--queue-limit",
        type=int,
        default=_DEFAULTS.queue_limit,
        metavar="TURNS",
        help=f"that may wait for an engine; default: {_DEFAULTS.queue_limit}",
    )
    group.add_argument(
        "--tenant-queue-limit",
        type=int,
        default=_DEFAULTS.tenant_queue_limit,
        metavar="TURNS",
        help=f"of one tenant; default: {_DEFAULTS.tenant_queue_limit}",
    )
    group.add_argument(
        "--no-prefetch", action="store_true", help="stage a session when its turn comes, not before"
    )


def settings_of(arguments: argparse.Namespace) -> SchedulingSettings:
    return SchedulingSettings(
        policy=arguments.policy,
        queue_limit=arguments.queue_limit,
        tenant_queue_limit=arguments.tenant_queue_limit,
        prefetch=not arguments.no_prefetch,
    )
