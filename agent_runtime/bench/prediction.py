"""Whether the formulas of `torpor simulate-nodes` hold where we can measure: on this machine.

predicted = fixed + bytes that a resume reads / what the store delivers + the hot answer
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_runtime.errors import SetupError
from engine.plan.nodes import load_seconds, session_bytes

Records = Sequence[Mapping[str, Any]]


def measured_constants(folder: Path) -> dict[str, float]:
    """shard_read, shard_write and fixed, of the records that `torpor bench report` has left.

    Raises SetupError where there are none.
    """
    measured = _constants(
        {name: _records(folder / f"{name}.jsonl") for name in ("store", "resume")}
    )
    if measured is None:
        raise SetupError(
            f"{folder} has no records of both store and resume; make them with torpor bench report "
            f"{folder} --run store resume."
        )
    return measured


def told(records: Mapping[str, Records]) -> Iterator[str]:
    """Lines of Markdown: predicted and measured, for every resume that was measured."""
    measured = _constants(records)
    if measured is None:
        yield "Not known: that takes records of both `store` and `resume`."
        return
    yield (
        f"`resume = fixed + bytes / bandwidth + hot answer`, with {measured['fixed']:g} s and "
        f"{measured['shard_read']:g} GB/s as measured above; see docs/nodes.md.\n"
    )
    yield "| tokens | bytes | predicted s | measured s | measured over predicted |"
    yield "|---|---|---|---|---|"
    for record in (*records.get("resume", ()), *records.get("million", ())):
        if record.get("resume_ttft_s") is None:
            continue
        size = session_bytes("demo", "CPU", record["tokens"])
        predicted = record["hot_ttft_s"] + load_seconds(
            size, measured["shard_read"], measured["fixed"]
        )
        taken = record["resume_ttft_s"]
        yield (
            f"| {record['tokens']} | {size} | {predicted:.3f} | {taken:.3f} | "
            f"{taken / predicted:.2f} |"
        )


def _records(file: Path) -> Records:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line]


def _constants(records: Mapping[str, Records]) -> dict[str, float] | None:
    raw = [r for r in records.get("store", ()) if r.get("measure") == "raw"]
    resumed = [r for r in records.get("resume", ()) if "prefetch_s" in r]
    if not raw or not resumed:
        return None
    largest = max(raw, key=lambda record: record["value_bytes"])
    shortest = min(resumed, key=lambda record: record["tokens"])
    return {
        "shard_read": largest["get_gb_s"],
        "shard_write": largest["put_gb_s"],
        "fixed": shortest["prefetch_s"],
    }
