"""The demo's closing table and its one line of JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from agent_runtime.demo.proof import Comparison, Run
from agent_runtime.wire.residency import Resumed, Suspended
from agent_runtime.wire.turns import TurnResult


@dataclass(frozen=True)
class Outcome:
    """What the demo measured. runs and comparisons: the continuation, then each branch."""

    suspended: Suspended
    resumed: Resumed
    first_turn: TurnResult
    runs: list[Run]
    comparisons: list[Comparison]
    reprefill_ttft_s: float
    fork_s: float
    killed: list[int]

    @property
    def identical(self) -> bool:
        return all(comparison.identical for comparison in self.comparisons)

    @property
    def resume_ttft_s(self) -> float:
        """Seconds of the resume call and to the first token of the turn after it."""
        assert self.first_turn.timing is not None
        return self.resumed.seconds + self.first_turn.timing.ttft_s


def report(outcome: Outcome) -> int:
    """Print the table, then the JSON line; 0 if everything came back identical."""
    usage = outcome.first_turn.usage
    lengths = [run.accept_length for run in outcome.runs if run.accept_length is not None]
    accept = sum(lengths) / len(lengths) if lengths else None
    expected = sum(run.expected for run in outcome.runs)
    wrong = [answer for run in outcome.runs for answer in run.wrong]
    new = usage.prompt_tokens - usage.reused_tokens - usage.recomputed_tokens
    compared = sum(comparison.tokens for comparison in outcome.comparisons)
    difference = max(comparison.logprob_difference for comparison in outcome.comparisons)

    table = Table(
        title="A session slept, everything was killed, and it woke up",
        title_style="",
        show_header=False,
    )
    table.add_column()
    table.add_column(justify="right")
    rows = [
        ("killed with -9: engine, runtime, store", " ".join(map(str, outcome.killed))),
        ("tokens in the session", f"{outcome.resumed.tokens:,}"),
        ("prompt of the resumed turn, tokens", f"{usage.prompt_tokens:,}"),
        ("  reused from the store", f"{usage.reused_tokens:,}"),
        ("  recomputed (past the last page)", f"{usage.recomputed_tokens:,}"),
        ("  new in this turn", f"{new:,}"),
        ("time to first token, resumed", f"{outcome.resume_ttft_s:.3f} s"),
        ("time to first token, prefilled again", f"{outcome.reprefill_ttft_s:.3f} s"),
        ("  prefilled again / resumed", f"{outcome.reprefill_ttft_s / outcome.resume_ttft_s:.1f}"),
        ("bytes held for the session", f"{outcome.suspended.bytes_written:,}"),
        ("  durability confirmed", outcome.suspended.durable),
        ("bytes read for the resume", f"{outcome.resumed.bytes_read:,}"),
        ("fork, median of 3", f"{outcome.fork_s * 1000:.1f} ms"),
        ("tokens compared with the uninterrupted runs", f"{compared:,}"),
        ("  identical", "yes" if outcome.identical else "NO"),
        ("  largest difference in log-probability", f"{difference:g}"),
        ("MTP acceptance length", "-" if accept is None else f"{accept:.2f}"),
        ("answers as expected", f"{expected - len(wrong)} of {expected}"),
        *(("  not as expected", answer) for answer in wrong),
    ]
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    line = {
        "demo": "ok" if outcome.identical else "failed",
        "prompt_tokens": usage.prompt_tokens,
        "reused_tokens": usage.reused_tokens,
        "recomputed_tokens": usage.recomputed_tokens,
        "resume_ttft_s": round(outcome.resume_ttft_s, 4),
        "reprefill_ttft_s": round(outcome.reprefill_ttft_s, 4),
        "forks": len(outcome.runs) - 1,
        "fork_ms": round(outcome.fork_s * 1000, 2),
        "identical": outcome.identical,
        "mtp_accept_length": None if accept is None else round(accept, 3),
        "answers_right": expected - len(wrong),
        "answers_expected": expected,
        "suspend_bytes": outcome.suspended.bytes_written,
    }
    print(json.dumps(line, separators=(",", ":")), flush=True)
    return 0 if outcome.identical else 1
