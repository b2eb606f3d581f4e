"""Pictures of replays: bars for a terminal, distributions for a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent_runtime.errors import SetupError
from agent_runtime.scheduling.simulate import Outcome, percentile

_WIDTH = 40
_FORMATS = (".png", ".svg")


def bars(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """Lines of text: what each policy reached, longest bar the largest value."""
    yield from _group(
        "share of prompt tokens found on the device",
        {name: outcome.token_hit_rate for name, outcome in outcomes.items()},
        "{:.3f}",
    )
    yield from _group(
        "seconds to the first token, 95th percentile",
        {name: percentile(outcome.ttfts, 0.95) for name, outcome in outcomes.items()},
        "{:.2f}",
    )


def _group(title: str, values: Mapping[str, float], form: str) -> Iterator[str]:
    yield title
    longest, most = max(map(len, values)), max(values.values()) or 1.0
    for name, value in values.items():
        bar = "█" * round(value / most * _WIDTH)
        yield f"  {name:<{longest}}  {bar:<{_WIDTH}}  {form.format(value)}"


def require_plottable(path: Path) -> None:
    """Raises SetupError before a long replay whose picture could not be drawn."""
    if path.suffix not in _FORMATS:
        raise SetupError(f"{path} should end in {' or '.join(_FORMATS)}.")
    pyplot()


def draw(outcomes: Mapping[str, Outcome], path: Path) -> None:
    """How many turns had their first token after how many seconds, a curve per policy."""
    figure, axes = pyplot().subplots(figsize=(8, 5), layout="constrained")
    for name, outcome in outcomes.items():
        ttfts = sorted(outcome.ttfts)
        shares = [(rank + 1) / len(ttfts) for rank in range(len(ttfts))]
        axes.plot(ttfts, shares, label=f"{name} (hit rate {outcome.token_hit_rate:.3f})")
    axes.set(
        xscale="log", xlabel="seconds to the first token", ylabel="share of turns", ylim=(0, 1)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
    pyplot().close(figure)


def pyplot() -> Any:
    """matplotlib's, for files only. Raises SetupError without it."""
    try:
        import matplotlib
    except ImportError as error:
        raise SetupError("pictures need matplotlib: pip install 'torpor[plot]'.") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
