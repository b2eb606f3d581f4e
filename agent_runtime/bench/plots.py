"""Pictures of what benches measured: curves over what grows, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_runtime.scheduling.plot import pyplot

_SECONDS = (
    "suspend_s", "llama_save_s", "resume_ttft_s", "reprefill_ttft_s", "alone_hot_ttft_s",
    "llama_ttft_s", "hot_ttft_s",
)  # fmt: skip


def pictures(folder: Path, bench: str, records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Draw into the folder what there is to draw of a bench; the names of the files."""
    for record in records:
        if "points" in record and len(record["points"]) > 1:
            name, points, over = f"{bench}-{record['over']}", record["points"], record["over"]
            if "ratios" in record:
                yield curves(
                    folder / f"{name}.svg", points, record["ratios"], over, "a bare SET = 1"
                )
            if "seconds" in record:
                yield curves(
                    folder / f"{name}-seconds.svg", points, record["seconds"], over, "seconds"
                )
            if "bytes" in record:
                yield curves(folder / f"{name}-bytes.svg", points, record["bytes"], over, "bytes")
    of_sessions = [record for record in records if bench in ("resume", "suspend")]
    of_sessions = [record for record in of_sessions if record.get("tokens")]
    if len(of_sessions) > 1:
        tokens = [record["tokens"] for record in of_sessions]
        shown = {
            field: [record[field] for record in of_sessions]
            for field in _SECONDS
            if all(record.get(field) is not None for record in of_sessions)
        }
        yield curves(folder / f"{bench}.svg", tokens, shown, "tokens", "seconds")


def curves(
    file: Path,
    points: Sequence[float],
    values: Mapping[str, Sequence[float]],
    over: str,
    label: str,
) -> str:
    """Draw one curve per name; the name of the file."""
    plot = pyplot()
    figure, axes = plot.subplots(figsize=(7, 4), layout="constrained")
    for name, heights in values.items():
        axes.plot(points, heights, marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel=over, ylabel=label)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    # The same page from the same records: no date, and ids that do not change.
    plot.rcParams["svg.hashsalt"] = file.stem
    figure.savefig(file, metadata={"Date": None})
    plot.close(figure)
    return file.name
