"""`torpor bench`: measurements, one line of JSON each."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

from agent_runtime.bench import machine
from agent_runtime.errors import SetupError
from engine.launch import checked_model
from engine.profiles import profile_named

Record = dict[str, Any]

_LENGTHS = [1000, 10_000, 100_000, 1_000_000]  # tokens


def add_to(parser: argparse.ArgumentParser) -> None:
    subjects = parser.add_subparsers(dest="bench_command", required=True)

    encodings = subjects.add_parser(
        "encodings", help="what the economy classes save, and what they cost the demo model"
    )
    encodings.add_argument("--model", type=Path, default=None, help="default: the demo model")
    encodings.set_defaults(run=_encodings)

    store = subjects.add_parser("store", help="how close the bulk path comes to a plain socket")
    store.add_argument("--quick", action="store_true", help="one small round: proves nothing")
    store.set_defaults(run=_store)

    resume = subjects.add_parser(
        "resume", help="how soon a session restored from the store answers, beside a new prefill"
    )
    resume.add_argument("--tokens", type=int, nargs="+", required=True, help="of the sessions")
    resume.add_argument("--rounds", type=int, default=5)
    resume.add_argument(
        "--synthetic", action="store_true", help="make its state up instead of computing it"
    )
    _stage_options(resume)
    resume.set_defaults(run=_resume)

    decode = subjects.add_parser(
        "decode", help="what snapshots cost while tokens are generated; MTP against none"
    )
    decode.add_argument("--pairs", type=int, default=5, help="of engines, one after the other")
    decode.add_argument("--rounds", type=int, default=4, help="conversations per engine")
    decode.add_argument("--tokens", type=int, default=128, help="generated per turn")
    _stage_options(decode)
    decode.set_defaults(run=_decode)

    million = subjects.add_parser(
        "million", help="`resume --tokens 1000000 --synthetic`: a session of a million tokens"
    )
    _stage_options(million)
    million.add_argument("--rounds", type=int, default=3)
    million.set_defaults(run=_resume, tokens=[1_000_000], synthetic=True)

    lengths = subjects.add_parser(
        "lengths", help="what sessions of some lengths cost to wake, go on with, fork and suspend"
    )
    lengths.add_argument("--tokens", type=int, nargs="+", default=_LENGTHS)
    lengths.add_argument("--rounds", type=int, default=5)
    _stage_options(lengths)
    lengths.set_defaults(run=_lengths)

    suspend = subjects.add_parser(
        "suspend", help="what one more turn takes to be put to sleep, beside llama.cpp's save"
    )
    suspend.add_argument("--tokens", type=int, nargs="+", default=[1000, 4000, 16000])
    suspend.add_argument("--rounds", type=int, default=8, help="turns of each session")
    _stage_options(suspend)
    suspend.set_defaults(run=_suspend)

    fork = subjects.add_parser("fork", help="what forks cost: time, memory, and from the middle")
    fork.add_argument("--short", type=int, default=1000, help="tokens of the session forked")
    fork.add_argument("--long", type=int, default=64_000, help="tokens of the one beside it")
    fork.add_argument("--told", type=int, default=16_000, help="of the one forked in its middle")
    fork.add_argument("--rounds", type=int, default=100)
    _stage_options(fork)
    fork.set_defaults(run=_fork)

    fleet = subjects.add_parser(
        "fleet", help="many agents with tools on an engine of few slots: waits, and what was lost"
    )
    fleet.add_argument("--sessions", type=int, default=200)
    fleet.add_argument("--slots", type=int, default=4, help="turns that the engine runs at once")
    fleet.add_argument("--seconds", type=float, default=180.0)
    fleet.add_argument("--seed", type=int, default=1)
    _stage_options(fleet)
    fleet.set_defaults(run=_fleet)

    turn = subjects.add_parser(
        "turn", help="what a turn costs besides the model, at a thousand tokens and at a million"
    )
    turn.add_argument("--rounds", type=int, default=20)
    turn.add_argument("--long", type=int, default=1_000_000, help="tokens of the long session")
    _stage_options(turn)
    turn.set_defaults(run=_turn)

    streams = subjects.add_parser(
        "streams", help="many open streams of session events: is all told, does memory grow"
    )
    streams.add_argument("--streams", type=int, default=500)
    streams.add_argument("--seconds", type=float, default=180.0)
    streams.add_argument("--data", type=Path, default=Path(".torpor/bench"), help="emptied first")
    streams.set_defaults(run=_streams)

    growth = subjects.add_parser(
        "growth", help="what small operations cost as sessions get longer, and as there are more"
    )
    growth.add_argument("--tokens", type=int, nargs="+", default=_LENGTHS)
    growth.add_argument("--sessions", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000])
    growth.add_argument("--rounds", type=int, default=100)
    growth.set_defaults(run=_growth)

    report = subjects.add_parser(
        "report", help="one page about what was measured, with pictures and where we lose"
    )
    report.add_argument(
        "folder", type=Path, nargs="?", default=None, help="default: docs/reference-run"
    )
    report.add_argument(
        "--run",
        dest="benches",
        nargs="*",
        metavar="BENCH",
        help="run these before; all of them if none is named",
    )
    report.set_defaults(run=_report)

    tenants = subjects.add_parser(
        "tenants", help="whether one tenant can tell what another has asked: by the clock, by reuse"
    )
    tenants.add_argument("--trials", type=int, default=300)
    tenants.add_argument("--words", type=int, default=400, help="of each prompt")
    tenants.add_argument("--seed", type=int, default=1)
    _stage_options(tenants)
    tenants.set_defaults(run=_tenants)

    savers = subjects.add_parser(
        "savers", help="LangGraph's checkpointers, ours among them, over a long thread"
    )
    savers.add_argument("--turns", type=int, default=1000)
    savers.add_argument("--data", type=Path, default=Path(".torpor/bench"), help="emptied first")
    savers.set_defaults(run=_savers)


def _stage_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, default=None, help="default: the demo model")
    parser.add_argument("--data", type=Path, default=Path(".torpor/bench"), help="emptied first")


def _encodings(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import encodings  # brings transformers, which takes seconds

    model = checked_model(arguments.model or profile_named("demo").model)
    _print(_machine(arguments))
    for record in encodings.measure(model):
        _print(record)
    return 0


def _store(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import store

    _print(_machine(arguments))
    for record in store.measure(store.QUICK if arguments.quick else store.FULL):
        print(json.dumps(record), flush=True)
        for name in record.get("loses", ()):
            print(f"loses: {name} at {record['value_bytes']} bytes", file=sys.stderr)
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import resume

    return _told(
        arguments,
        resume.measure(
            lengths=arguments.tokens,
            rounds=arguments.rounds,
            synthetic=arguments.synthetic,
            **_staged(arguments),
        ),
    )


def _lengths(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import lengths

    staged = _staged(arguments)
    return _told(
        arguments, lengths.measure(lengths=arguments.tokens, rounds=arguments.rounds, **staged)
    )


def _suspend(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import suspend

    staged = _staged(arguments)
    return _told(
        arguments, suspend.measure(lengths=arguments.tokens, rounds=arguments.rounds, **staged)
    )


def _fork(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import fork

    return _told(
        arguments,
        fork.measure(
            short=arguments.short,
            long=arguments.long,
            told=arguments.told,
            rounds=arguments.rounds,
            **_staged(arguments),
        ),
    )


def _decode(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import decode

    staged = _staged(arguments)
    return _told(
        arguments,
        decode.measure(
            pairs=arguments.pairs, rounds=arguments.rounds, tokens=arguments.tokens, **staged
        ),
    )


def _fleet(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import fleet

    return _told(
        arguments,
        fleet.measure(
            sessions=arguments.sessions,
            slots=arguments.slots,
            seconds=arguments.seconds,
            seed=arguments.seed,
            **_staged(arguments),
        ),
    )


def _turn(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import turn

    staged = _staged(arguments)
    return _told(
        arguments, turn.measure(rounds=arguments.rounds, long_tokens=arguments.long, **staged)
    )


def _streams(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import streams

    return _told(
        arguments,
        streams.measure(streams=arguments.streams, seconds=arguments.seconds, data=arguments.data),
    )


def _growth(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import growth

    return _told(
        arguments,
        growth.measure(
            tokens=arguments.tokens, sessions=arguments.sessions, rounds=arguments.rounds
        ),
    )


def _report(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import report

    folder = arguments.folder or report.REFERENCE
    failed: list[str] = []
    if arguments.benches is not None:
        failed = report.run(arguments.benches or list(report.RUNS), folder)
    print(report.write(folder))
    if failed:
        raise SetupError(f"{', '.join(failed)} failed; the page says how. The others ran.")
    return 0


def _tenants(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import tenants

    return _told(
        arguments,
        tenants.measure(
            trials=arguments.trials,
            words=arguments.words,
            seed=arguments.seed,
            **_staged(arguments),
        ),
    )


def _savers(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import savers

    return _told(arguments, savers.measure(turns=arguments.turns, data=arguments.data))


def _staged(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a bench with an engine of its own is given."""
    return {
        "profile": profile_named("demo"),
        "model": arguments.model,
        "data": arguments.data,
    }


def _machine(arguments: argparse.Namespace) -> Record:
    return {"bench": arguments.bench_command, **machine.describe()}


def _told(
    arguments: argparse.Namespace, measured: Awaitable[Record] | AsyncIterator[Record]
) -> int:
    """Print what it runs on, then every record as it comes; and what is behind its peers, on
    stderr."""

    async def printed() -> None:
        _print(_machine(arguments))
        if isinstance(measured, AsyncIterator):
            async for record in measured:
                _print(record)
        else:
            _print(await measured)

    logging.getLogger("httpx").setLevel(logging.WARNING)
    asyncio.run(printed())
    return 0


def _print(record: Record) -> None:
    print(json.dumps(record), flush=True)
    for loss in record.get("loses", ()):
        print(f"loses: {loss}", file=sys.stderr)
