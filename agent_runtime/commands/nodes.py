"""`torpor simulate-nodes`: what sessions of Nemotron 3 take on real nodes, by the formulas of
`engine/plan/nodes.py`. A table, or JSON lines; curves with `--plot`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent_runtime.bench.prediction import measured_constants
from agent_runtime.commands.plan import read_gpus, read_tokens
from agent_runtime.errors import SetupError
from agent_runtime.scheduling.plot import pyplot, require_plottable
from engine.errors import ImpossiblePlan
from engine.plan.nodes import Constants, Node, Outcome, constants, nodes, outcome

_CONTEXTS = [16 << 10, 64 << 10, 256 << 10, 1 << 20]
_GIB = 1 << 30


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="only this one's; with --gpus, a node of your own")
    parser.add_argument("--gpus", type=read_gpus, metavar="NxTYPE", help="such as 8xH100")
    parser.add_argument("--quantization", default="bf16", help="of the node of your own")
    parser.add_argument("--network", type=float, metavar="GB/s", help="of each node")
    parser.add_argument("--shards", type=int, metavar="N", help="Redis masters of each")
    parser.add_argument(
        "--context", type=read_tokens, nargs="+", default=_CONTEXTS, metavar="TOKENS"
    )
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="NAME=VALUE",
        help="change a constant: docs/nodes.md",
    )  # fmt: skip
    parser.add_argument(
        "--measured", type=Path, metavar="FOLDER",
        help="take the store's bandwidths and fixed cost from a run of `torpor bench report`",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="a line for each node and context")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="curves, .png or .svg")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.plot is not None:
        require_plottable(arguments.plot)
    known = _constants(arguments)
    found: list[tuple[Node, list[Outcome | str]]] = []
    for node in _nodes(arguments):
        found.append((node, [_outcome(node, tokens, known) for tokens in arguments.context]))
    if arguments.json:
        for node, outcomes in found:
            for tokens, one in zip(arguments.context, outcomes, strict=True):
                print(json.dumps(_record(node, tokens, one)))
    else:
        print("\n".join(_lines(known, arguments.context, found)))
    if arguments.plot is not None:
        _draw(arguments.plot, found)
    return 0 if any(isinstance(one, Outcome) for _, outcomes in found for one in outcomes) else 1


def _setting(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not such as shard_read=2") from None


def _constants(arguments: argparse.Namespace) -> Constants:
    """Those given by name come last."""
    known = constants()
    if arguments.measured is not None:
        known = known.changed(measured_constants(arguments.measured))
    return known.changed(dict(arguments.set))


def _nodes(arguments: argparse.Namespace) -> list[Node]:
    if arguments.gpus is not None:
        if arguments.model is None:
            raise SetupError("--gpus needs --model: nemotron-3-nano, -super or -ultra.")
        count, gpu = arguments.gpus
        chosen = [Node(arguments.model, arguments.quantization, gpu, count, network=12.5, shards=4)]
    else:
        chosen = [node for node in nodes() if arguments.model in (None, node.model)]
        if not chosen:
            names = ", ".join(dict.fromkeys(node.model for node in nodes()))
            raise SetupError(f"no node has {arguments.model}; there are {names}, or give --gpus.")
    changes = {
        name: value
        for name in ("network", "shards")
        if (value := getattr(arguments, name)) is not None
    }
    if not all(0 < value < math.inf for value in changes.values()):  # NaN is not
        raise SetupError("--network and --shards must be positive and finite.")
    return [dataclasses.replace(node, **changes) for node in chosen]


def _outcome(node: Node, tokens: int, known: Constants) -> Outcome | str:
    """Or why there is none."""
    try:
        return outcome(node, tokens, known)
    except ImpossiblePlan as reason:
        return str(reason)


def _record(node: Node, tokens: int, one: Outcome | str) -> dict[str, object]:
    if isinstance(one, str):
        return {"node": dataclasses.asdict(node), "context": tokens, "impossible": one}
    return dataclasses.asdict(one)


def _lines(
    known: Constants, contexts: Sequence[int], found: Sequence[tuple[Node, list[Outcome | str]]]
) -> Iterator[str]:
    for node, outcomes in found:
        yield _title(node)
        yield (
            f"{'tokens':>9}{'reads':>11}{'limit':>9}{'resume':>10}{'archived':>10}{'suspend':>10}"
            f"{'prefill':>10}{'ratio':>7}{'RAM/day':>10}{'archive':>10}{'pays for':>11}"
        )
        for tokens, one in zip(contexts, outcomes, strict=True):
            if isinstance(one, str):
                yield f"{tokens:>9}  {one}"
                continue
            yield (
                f"{tokens:>9}{one.read_bytes / _GIB:>7.2f} GiB{one.limit:>9}{one.resume:>8.2f} s"
                f"{one.resume_archived:>8.2f} s{one.suspend:>8.3f} s{one.prefill:>8.2f} s"
                f"{one.ratio:>7.1f}{one.ram_day:>8.3f} ${one.archive_day:>8.4f} $"
                f"{one.ram_days * 24:>9.2f} h"
            )
        even = next((one for one in outcomes if isinstance(one, Outcome)), None)
        if even is not None:
            yield (
                "  a resume is never sooner than the prefill"
                if even.break_even is None
                else f"  a resume is sooner than the prefill from {even.break_even} tokens on"
            )
        yield ""
    yield "constants: " + ", ".join(
        f"{name} {value:g}" for name, value in dataclasses.asdict(known).items()
    )


def _title(node: Node) -> str:
    return (
        f"{node.model} {node.precision} on {node.gpus} x {node.gpu}, {node.network:g} GB/s to "
        f"{node.shards} shards"
    )


def _draw(file: Path, found: Sequence[tuple[Node, list[Outcome | str]]]) -> None:
    """Resume solid, prefill dashed, one colour for each node."""
    plot = pyplot()
    figure, axes = plot.subplots(figsize=(8, 5), layout="constrained")
    for node, outcomes in found:
        some = [one for one in outcomes if isinstance(one, Outcome)]
        tokens = [one.context for one in some]
        (line,) = axes.plot(tokens, [one.resume for one in some], marker="o", label=_title(node))
        axes.plot(tokens, [one.prefill for one in some], ls="--", color=line.get_color())
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="tokens",
        ylabel="seconds (solid: resume, dashed: prefill)",
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.savefig(file)
    plot.close(figure)
