"""`torpor doctor`: what is wrong here, why it matters, and how to fix it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from agent_runtime.commands.store_options import add_data_option
from agent_runtime.doctor import Finding, Level, examine


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--redis", metavar="URL", default=None, help="default: an embedded one")
    parser.add_argument("--model", type=Path, default=None, help="default: the demo model")
    add_data_option(parser)
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    """1 if something failed, else 0."""
    found: list[Finding] = []
    for finding in examine(
        redis_url=arguments.redis, model_dir=arguments.model, data=arguments.data
    ):
        found.append(finding)
        if not arguments.json:
            _show(finding)
    failed = sum(finding.level is Level.FAIL for finding in found)
    warned = sum(finding.level is Level.WARN for finding in found)
    if arguments.json:
        shown = [{**dataclasses.asdict(one), "level": one.level.value} for one in found]
        print(json.dumps({"failed": failed, "warned": warned, "findings": shown}, indent=2))
    else:
        print(f"{len(found)} findings: {failed} failed, {warned} warnings")
    return 1 if failed else 0


def _show(finding: Finding) -> None:
    print(f"{finding.level.value:<5} {finding.subject}: {finding.found}", flush=True)
    if finding.level is not Level.OK:
        print(f"      why: {finding.why}")
        print(f"      fix: {finding.fix}", flush=True)
