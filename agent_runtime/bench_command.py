"""`torpor bench`: measurements, one line of JSON each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from engine.launch import checked_model
from engine.profiles import profile_named


def add_to(commands: Any) -> None:
    """commands: what `ArgumentParser.add_subparsers` returned."""
    bench = commands.add_parser("bench", help="measure; prints lines of JSON")
    subjects = bench.add_subparsers(dest="bench_command", required=True)

    encodings = subjects.add_parser(
        "encodings", help="what the economy classes save, and what they cost the demo model"
    )
    encodings.add_argument("--model", type=Path, default=None, help="default: the demo model")
    encodings.set_defaults(run=_encodings)


def _encodings(arguments: argparse.Namespace) -> int:
    from agent_runtime.bench import encodings  # brings transformers, which takes seconds

    model = checked_model(arguments.model or profile_named("demo").model)
    for record in encodings.measure(model):
        print(json.dumps(record), flush=True)
    return 0
