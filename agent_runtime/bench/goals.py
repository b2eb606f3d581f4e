"""What the benches should reach, and what a run of them did reach.

Most goals are ratios of two things measured in one run, so that they mean the same on every
machine. Where a peer is ahead in something else, records say so themselves, in `loses`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
Records = Sequence[Record]


@dataclass(frozen=True)
class Goal:
    """find: the figure, or None where the records do not have it. `limit` is the least that counts
    as met if `at_least`, else the most."""

    bench: str
    text: str
    find: Callable[[Records], float | None]
    limit: float
    at_least: bool = False

    @property
    def wanted(self) -> str:
        if self.limit == 0:
            return "0"
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"

    def verdict(self, records: Mapping[str, Records]) -> Verdict:
        measured = self.find(records.get(self.bench, ()))
        if measured is None:
            return Verdict(self, None, None)
        met = measured >= self.limit if self.at_least else measured <= self.limit
        return Verdict(self, measured, met)


@dataclass(frozen=True)
class Verdict:
    """measured, met: None where there is no record"""

    goal: Goal
    measured: float | None
    met: bool | None

    @property
    def word(self) -> str:
        return {True: "met", False: "**LOST**", None: "not measured"}[self.met]


def verdicts(records: Mapping[str, Records]) -> list[Verdict]:
    """Of all goals. records: bench -> what it printed"""
    return [goal.verdict(records) for goal in GOALS]


def _least(*names: str) -> Callable[[Records], float | None]:
    return lambda records: min(_values(records, names), default=None)


def _most(*names: str) -> Callable[[Records], float | None]:
    return lambda records: max(_values(records, names), default=None)


def _of_16k(name: str) -> Callable[[Records], float | None]:
    """Of the session whose tokens are nearest to 16,000, if there is one of at least half of
    that and at most twice."""

    def find(records: Records) -> float | None:
        near = sorted(_by_tokens(records, name), key=lambda r: abs(r["tokens"] - 16_000))
        return near[0][name] if near and 8_000 <= near[0]["tokens"] <= 32_000 else None

    return find


def _longest(name: str) -> Callable[[Records], float | None]:
    """Of the longest session that has it."""

    def find(records: Records) -> float | None:
        some = _by_tokens(records, name)
        return some[-1][name] if some else None

    return find


def _steps(name: str) -> Callable[[Records], float | None]:
    """The smallest step from one session to the next longer one, as a ratio."""

    def find(records: Records) -> float | None:
        values = [record[name] for record in _by_tokens(records, name)]
        return min((b / a for a, b in itertools.pairwise(values)), default=None)

    return find


def _sum(*names: str) -> Callable[[Records], float | None]:
    def find(records: Records) -> float | None:
        values = _values(records, names)
        return sum(values) if values else None

    return find


def _ratio(one: str, other: str) -> Callable[[Records], float | None]:
    def find(records: Records) -> float | None:
        return max((r[one] / r[other] for r in records if r.get(other)), default=None)

    return find


def _connections(measure: str) -> Callable[[Records], float | None]:
    """Of the most connections, the worse way."""

    def worst(records: Records) -> float | None:
        some = [record for record in records if record.get("measure") == "connections"]
        ways = [record[f"{way}_{measure}"] for record in some for way in ("get", "put")]
        return min((list(way.values())[-1] for way in ways), default=None)

    return worst


def _behind(records: Records) -> float | None:
    """How many measures a peer leads in."""
    goals = [record for record in records if record.get("measure") == "goal"]
    return sum(len(record["loses"]) for record in goals) if goals else None


def _ours(name: str) -> Callable[[Records], float | None]:
    return lambda records: max(
        (r[name] for r in records if r.get("saver") == "torpor" and name in r), default=None
    )


def _steepest(*names: str) -> Callable[[Records], float | None]:
    """Power that any of these grows with; of all, if none is named."""
    return lambda records: max(
        (
            power
            for record in records
            for name, power in record.get("powers", {}).items()
            if not names or name in names
        ),
        default=None,
    )


def _different(*names: str) -> Callable[[Records], float | None]:
    """How many of these comparisons were not identical."""

    def find(records: Records) -> float | None:
        said = [record[name] for record in records for name in names if name in record]
        return said.count(False) if said else None

    return find


def _by_tokens(records: Records, name: str) -> list[Record]:
    """Those of sessions that have it, shortest first."""
    some = [r for r in records if _is_number(r.get(name)) and "tokens" in r]
    return sorted(some, key=lambda record: record["tokens"])


def _values(records: Records, names: Sequence[str]) -> list[float]:
    return [r[name] for r in records for name in names if _is_number(r.get(name))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


GOALS = (
    Goal(
        "resume",
        "re-prefill over resumed time to first token, at 16K tokens",
        _of_16k("ratio"),
        50,
        at_least=True,
    ),
    Goal(
        "resume",
        "the same right after a restart of the engine",
        _of_16k("restarted_ratio"),
        50,
        at_least=True,
    ),
    Goal(
        "resume",
        "re-prefill over resumed grows with each longer session: smallest step",
        _steps("ratio"),
        1,
        at_least=True,
    ),
    Goal(
        "resume",
        "resumed time to first token over llama.cpp's restore, at 16K tokens",
        _of_16k("llama_ratio"),
        1,
    ),
    Goal("resume", "the same, longest session", _longest("llama_ratio"), 1),
    Goal("resume", "answers that are not the uninterrupted session's", _different("identical"), 0),
    Goal(
        "suspend",
        "bytes written after one more turn over llama.cpp's save, longest session",
        _longest("bytes_ratio"),
        0.05,
    ),
    Goal("suspend", "time to suspend, longest over shortest session", _most("suspend_growth"), 1.5),
    Goal("fork", "time to fork, long over short session", _most("time_ratio"), 1.2),
    Goal("fork", "storage with 12 forks over without", _most("storage_ratio"), 1.005),
    Goal(
        "fork",
        "tokens recomputed from the middle, in boundary intervals",
        _ratio("recomputed_tokens", "boundary_interval"),
        1,
    ),
    Goal(
        "store",
        "throughput over a raw socket's, worst size and way",
        _least("get_ratio_raw", "put_ratio_raw"),
        0.8,
        at_least=True,
    ),
    Goal(
        "store",
        "throughput over redis-py's, worst size and way",
        _least("get_ratio_redis_py", "put_ratio_redis_py"),
        3,
        at_least=True,
    ),
    Goal(
        "store",
        "throughput over LMCache's client, worst size and way",
        _least("get_ratio_lmcache", "put_ratio_lmcache"),
        1,
        at_least=True,
    ),
    Goal(
        "store",
        "throughput of 4 connections over that of 4 plain sockets, worse way",
        _connections("ratio_sockets"),
        0.8,
        at_least=True,
    ),
    Goal(
        "store",
        "throughput of 4 connections over one, worse way",
        _connections("speedup"),
        1,
        at_least=True,
    ),
    Goal("turn", "a turn over the engine's own generate", _most("overhead_ratio"), 1.05),
    Goal("turn", "time outside of the model, long over short session", _most("growth_1m"), 2),
    Goal(
        "decode",
        "tokens per second with snapshots over without",
        _least("snapshot_on_off"),
        0.97,
        at_least=True,
    ),
    Goal(
        "decode",
        "whether snapshots or MTP changed greedy tokens: comparisons that differ",
        _different("identical", "mtp_identical"),
        0,
    ),
    Goal(
        "million",
        "share of a million tokens that a resume reused",
        _ratio("reused_tokens", "tokens"),
        0.999,
        at_least=True,
    ),
    Goal("million", "answers that are not the uninterrupted session's", _different("identical"), 0),
    Goal(
        "fleet",
        "turns lost, doubled or failed, and problems found in the store",
        _sum("lost", "doubled", "failed", "store_problems"),
        0,
    ),
    Goal("savers", "measures in which another saver is ahead", _behind, 0),
    Goal(
        "savers",
        "power of turns that stored bytes grow with: ours, worse channel",
        _ours("bytes_exponent"),
        1.1,
    ),
    Goal(
        "growth", "power of tokens or sessions that a cost grows with, steepest", _steepest(), 0.1
    ),
    Goal(
        "lengths",
        "power of tokens that fork, suspend and work outside of the model grow with, steepest",
        _steepest("fork_s", "suspend_s", "outside_s"),
        0.1,
    ),
    Goal("lengths", "power of tokens that a resume grows with", _steepest("resume_ttft_s"), 1.05),
    Goal("tenants", "tokens that one tenant reused of another's", _sum("reused_of_the_others"), 0),
    Goal("streams", "events lost or out of order", _sum("lost", "out_of_order"), 0),
)
"""In the order of the page."""
