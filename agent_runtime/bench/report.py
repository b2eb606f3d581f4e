"""One page about a run of all benches: what was reached, how it grows, and where we lose.

folder/<bench>.jsonl    the records, as the command printed them; the first says on what machine
folder/README.md        the page, with pictures beside it

A bench that fails is recorded as such; the others run all the same. Running some again replaces
their records only.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_runtime.bench import prediction
from agent_runtime.bench.goals import verdicts
from agent_runtime.bench.plots import pictures
from agent_runtime.errors import SetupError

REFERENCE = Path("docs/reference-run")
"""The run that is committed."""

RUNS: Mapping[str, Sequence[str]] = {
    "store": [],
    "resume": ["--tokens", "1000", "4000", "16000", "32000"],
    "suspend": [],
    "fork": ["--rounds", "50"],
    "turn": [],
    "decode": [],
    "fleet": ["--sessions", "100", "--seconds", "60"],
    "million": ["--rounds", "2"],
    "lengths": ["--rounds", "5"],
    "growth": ["--rounds", "50"],
    "savers": ["--turns", "1000"],
    "tenants": ["--trials", "60", "--words", "150"],
    "streams": ["--seconds", "30"],
}
"""Options of each bench in the reference run."""

_LIMIT = 15 * 60  # seconds of one bench
_PATIENCE = 60  # seconds for one that is stopped to end what it has started
_TOLD = 12  # last lines on stderr of a bench that failed

Record = dict[str, Any]


def run(names: Sequence[str], folder: Path) -> list[str]:
    """Run benches one after another, each as a process of its own, and keep what they print.
    Those that failed. Raises SetupError for a bench that there is none of."""
    unknown = sorted(set(names) - RUNS.keys())
    if unknown:
        raise SetupError(f"no bench {', '.join(unknown)}; there are {', '.join(RUNS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names:
        sys.stderr.write(f"torpor bench {' '.join([name, *RUNS[name]])}\n")
        started = time.monotonic()
        printed, reason = _run(name)
        took = round(time.monotonic() - started, 1)
        sys.stderr.write(f"{'ran' if reason is None else 'failed after'} {took:g} s\n")
        end: Record = {"bench": name, "measure": "end", "seconds": took, "failed": reason}
        (folder / f"{name}.jsonl").write_text(printed + json.dumps(end) + "\n", "utf-8")
        if reason is not None:
            failed.append(name)
    return failed


def write(folder: Path) -> Path:
    """The page of what is in the folder. Raises SetupError if that is nothing, or no records."""
    records = {name: _read(file) for name in RUNS if (file := folder / f"{name}.jsonl").exists()}
    if not records:
        raise SetupError(f"{folder} has no records; run benches into it with --run.")
    page = folder / "README.md"
    page.write_text("\n".join(_page(folder, records)) + "\n", "utf-8")
    return page


def _run(name: str) -> tuple[str, str | None]:
    """What a bench printed, and why it failed if it did."""
    command = [sys.executable, "-m", "agent_runtime.cli", "bench", name, *RUNS[name]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        printed, said = process.communicate(timeout=_LIMIT)
        reason = None
    except subprocess.TimeoutExpired:
        reason = f"stopped after {_LIMIT} s"
        process.send_signal(signal.SIGINT)  # so that it ends its servers and engines
        try:
            printed, said = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, said = process.communicate()
    if process.returncode and reason is None:
        reason = f"exit status {process.returncode}"
    sys.stderr.write(said)
    if reason is not None:
        reason = "\n".join([reason, *said.splitlines()[-_TOLD:]])
    complete, newline, _ = printed.rpartition("\n")
    return complete + newline, reason


def _read(file: Path) -> list[Record]:
    try:
        return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line]
    except ValueError as error:
        raise SetupError(f"{file} holds something else than records: {error}") from error


def _page(folder: Path, records: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    yield "# A run of all benches\n"
    yield "Written by `torpor bench report`; what the fields are, `docs/bench*.md` say.\n"
    yield from _failures(records)
    yield "## Goals\n"
    yield from _goals(records)
    yield "\n## Where we lose\n"
    yield from list(_losses(records)) or ["Nowhere, in what these benches compare."]
    yield "\n## What the formula says of this machine\n"
    yield from prediction.told(records)
    yield "\n## Machines\n"
    yield from _machines(records)
    for name, some in records.items():
        yield f"\n## {name}\n"
        yield f"`torpor bench {' '.join([name, *RUNS[name]])}`\n"
        measured = [one for one in some if one.get("measure") not in ("machine", "end")]
        for group in _groups(measured):
            yield from _table(group)
            yield ""
        for picture in pictures(folder, name, measured):
            yield f"![{name}]({picture})\n"


def _failures(records: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    for name, some in records.items():
        for record in some:
            if record.get("measure") == "end" and record["failed"] is not None:
                yield f"**`{name}` failed**; what it had printed by then is below.\n"
                yield f"```text\n{record['failed']}\n```\n"
    missing = [name for name in RUNS if name not in records]
    if missing:
        yield f"Not run: {', '.join(missing)}.\n"


def _goals(records: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    yield "| bench | goal | wanted | measured | |"
    yield "|---|---|---|---|---|"
    for verdict in verdicts(records):
        goal, measured = verdict.goal, verdict.measured
        shown = "" if measured is None else f"{measured:g}"
        yield f"| {goal.bench} | {goal.text} | {goal.wanted} | {shown} | {verdict.word} |"


def _losses(records: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """Goals that were missed, and then everything that peers are ahead in."""
    for verdict in verdicts(records):
        if verdict.met is False:
            goal = verdict.goal
            yield f"- {goal.bench}: {goal.text} is {verdict.measured:g}; wanted: {goal.wanted}"
    for name, some in records.items():
        for record in some:
            where = f" at {record['value_bytes']} bytes" if "value_bytes" in record else ""
            for loss in record.get("loses") or ():
                yield f"- {name}: {loss}{where}"


def _machines(records: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """What is the same for all; then a row per bench. `load` is the average of the minute before
    it began."""
    machines = {name: _one(some, "machine") for name, some in records.items()}
    known = [set(machine.items()) for machine in machines.values() if machine]
    shared = dict(set.intersection(*known)) if len(known) > 1 else {}
    if shared:
        fields = next(iter(machine for machine in machines.values() if machine))
        yield from _table([{field: shared[field] for field in fields if field in shared}])
        yield ""
    columns = {field: None for machine in machines.values() for field in machine}
    yield from _rows(
        [
            {
                "bench": name,
                **{field: machine.get(field) for field in columns if field not in shared},
                "seconds": _one(records[name], "end").get("seconds"),
            }
            for name, machine in machines.items()
        ]
    )


def _one(records: Sequence[Record], measure: str) -> Record:
    """Without what every record of the bench has; nothing if there is none."""
    found = next((record for record in records if record.get("measure") == measure), {})
    return {field: found[field] for field in found if field not in ("bench", "measure")}


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
    shown = [
        {field: value for field, value in record.items() if field not in ("bench", "loses")}
        for record in records
    ]
    if len(shown) > 3:
        yield from _rows(shown)
        return
    yield "| |" + " |" * len(shown)
    yield "|---" * (len(shown) + 1) + "|"
    for field in shown[0]:
        yield f"| {field} | " + " | ".join(_shown(record[field]) for record in shown) + " |"


def _rows(records: Sequence[Record]) -> Iterator[str]:
    yield "| " + " | ".join(records[0]) + " |"
    yield "|---" * len(records[0]) + "|"
    for record in records:
        yield "| " + " | ".join(map(_shown, record.values())) + " |"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "" if value is None else str(value).replace("|", "\\|")
