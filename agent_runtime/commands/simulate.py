"""`torpor simulate`: a trace, replayed with each policy. JSON lines on stdout, bars on stderr."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent_runtime.commands.plan import read_count, read_gpus, read_positive, read_tokens
from agent_runtime.policies import POLICIES
from agent_runtime.scheduling import plot, trace
from agent_runtime.scheduling.machine import planned
from agent_runtime.scheduling.queues import FairQueue
from agent_runtime.scheduling.simulate import Machine, Outcome, mean, percentile, replay
from agent_runtime.settings import SchedulingSettings
from engine.plan import Question

_GB = 10**9


def add_to(parser: argparse.ArgumentParser) -> None:
    made = parser.add_argument_group("the trace: a file, or made up")
    made.add_argument("--trace", type=Path, metavar="FILE", help="JSON lines, a turn each")
    made.add_argument("--sessions", type=read_count, default=10_000)
    made.add_argument(
        "--rate", type=read_positive, default=0.3, help="sessions that begin per second"
    )
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--write", type=Path, metavar="FILE", help="keep the trace")

    machine = parser.add_argument_group("the engine: as `torpor plan` sizes it")
    machine.add_argument("--model", default="nemotron-3-super")
    machine.add_argument("--gpus", type=read_gpus, default=(8, "H100"), metavar="NxTYPE")
    machine.add_argument("--context", type=read_tokens, default=131072, metavar="TOKENS")
    machine.add_argument("--slots", type=read_count, default=16, help="turns that run at once")
    machine.add_argument("--prefill-rate", type=read_positive, default=20_000, metavar="TOKENS/s")
    machine.add_argument(
        "--decode-rate",
        type=read_positive,
        default=50,
        metavar="TOKENS/s",
        help="of each running turn",
    )
    machine.add_argument("--store-bandwidth", type=read_positive, default=1.25, metavar="GB/s")
    machine.add_argument("--device-bandwidth", type=read_positive, default=25.0, metavar="GB/s")
    machine.add_argument(
        "--staging", type=read_positive, default=64, metavar="GB", help="host memory for prefetches"
    )
    machine.add_argument(
        "--no-store", action="store_true", help="what leaves the device is computed again"
    )

    how = parser.add_argument_group("the scheduler")
    how.add_argument("--policy", action="append", choices=POLICIES, help="default: each")
    how.add_argument("--no-prefetch", action="store_true")
    how.add_argument("--plot", type=Path, metavar="FILE", help="a picture, .png or .svg")
    parser.set_defaults(run=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    if arguments.plot is not None:
        plot.require_plottable(arguments.plot)
    machine = _machine(arguments)
    rows = (
        list(trace.generate(arguments.sessions, rate=arguments.rate, seed=arguments.seed))
        if arguments.trace is None
        else trace.read(arguments.trace)
    )
    if arguments.write is not None:
        trace.write(rows, arguments.write)
    sessions = trace.sessions_of(rows)
    outcomes: dict[str, Outcome] = {}
    for name in arguments.policy or POLICIES:
        began = time.perf_counter()
        outcome = replay(
            sessions,
            machine,
            POLICIES[name](),
            _queue(),
            prefetch=not arguments.no_prefetch,
        )
        outcomes[name] = outcome
        record = {"policy": name, "sessions": len(sessions), **_record(outcome)}
        record["replayed_in_s"] = round(time.perf_counter() - began, 2)
        print(json.dumps(record), flush=True)
    print("\n".join(plot.bars(outcomes)), file=sys.stderr)
    if arguments.plot is not None:
        plot.draw(outcomes, arguments.plot)
    return 0


def _machine(arguments: argparse.Namespace) -> Machine:
    count, gpu = arguments.gpus
    return planned(
        Question(
            model=arguments.model,
            gpu=gpu,
            gpus=count,
            sessions=arguments.sessions,
            context=arguments.context,
            prefill_rate=arguments.prefill_rate,
            store_bandwidth=arguments.store_bandwidth * _GB,
            device_bandwidth=arguments.device_bandwidth * _GB,
        ),
        slots=arguments.slots,
        decode_rate=arguments.decode_rate,
        staging_bytes=int(arguments.staging * _GB),
        store=not arguments.no_store,
    )


def _queue() -> FairQueue:
    """With the runtime's limits."""
    settings = SchedulingSettings()
    return FairQueue(
        limit=settings.queue_limit,
        tenant_limit=settings.tenant_queue_limit,
        quantum=settings.quantum,
    )


def _record(outcome: Outcome) -> Mapping[str, Any]:
    return {
        "turns": outcome.turns,
        "token_hit_rate": round(outcome.token_hit_rate, 4),
        "without_reprefill": round(outcome.without_reprefill, 4),
        "starts": outcome.starts,
        "mean_wait_s": round(mean(outcome.waits), 3),
        "p95_wait_s": round(percentile(outcome.waits, 0.95), 3),
        "mean_ttft_s": round(mean(outcome.ttfts), 3),
        "p95_ttft_s": round(percentile(outcome.ttfts, 0.95), 3),
        "moved_bytes": outcome.moved_bytes,
        "suspended": outcome.suspended,
        "prefetched": outcome.prefetched,
        "refused": outcome.refused,
        "simulated_s": round(outcome.seconds, 1),
    }
