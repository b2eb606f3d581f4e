"""The command line of the demo model: train it, evaluate it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from engine.demo_model.evaluate import evaluate
from engine.demo_model.export import WEIGHTS
from engine.demo_model.train import train


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.demo_model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train from nothing; takes about 40 minutes")
    training.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    evaluation = commands.add_parser("evaluate", help="print scores as one JSON object")
    evaluation.add_argument("folder", type=Path, help="folder of the checkpoint")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "train":
        train(arguments.out)
        return 0
    if not (arguments.folder / WEIGHTS).is_file():
        print(f"No model at {arguments.folder}: {WEIGHTS} is missing.", file=sys.stderr)
        return 1
    print(json.dumps(evaluate(arguments.folder), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
