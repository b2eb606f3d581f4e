"""What of an exchange is shown, wherever that is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Protocol

from agent_runtime.graph import Step
from agent_runtime.wire.events import Progress, ToolCalled
from agent_runtime.wire.turns import TurnResult

_TURN_AROUND = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f]")


class View(Protocol):
    """Hears of everything as it happens."""

    def reasoning(self, text: str) -> None:
        """A piece of what the model thinks."""

    def text(self, text: str) -> None:
        """A piece of its answer."""

    def called(self, call: ToolCalled) -> None:
        """A call that the model has written."""

    def ran(self, step: Step) -> None:
        """What a tool has given back."""

    def progress(self, progress: Progress) -> None:
        """How far a wait is."""

    def anew(self) -> None:
        """What comes now is in place of what was shown of this turn."""

    def note(self, text: str) -> None:
        """What a person is to know, and the model is not told."""

    def took(self, result: TurnResult) -> None:
        """A turn that is over; then the tools that it calls are run."""

    def done(self, results: Sequence[TurnResult]) -> None:
        """The turns of an exchange that came to its end."""


def harmless(text: str) -> str:
    """Without the characters that command a terminal, or turn the order of others around."""
    return "".join(one for one in text if one in "\n\t" or not _commands(one))


def visible(text: str) -> str:
    """With every character that cannot be seen as its number: for what a person decides about."""
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text)


def one_line(text: str, most: int = 120) -> str:
    """The beginning of a text, fit for a line."""
    line = " ".join(harmless(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def usage_line(results: Sequence[TurnResult]) -> str:
    """What turns cost, and how safe they are."""
    usages = [result.usage for result in results]
    last = results[-1]
    reasons = dict.fromkeys(one.recompute_reason for one in usages if one.recompute_reason)
    parts = [
        f"reused {sum(one.reused_tokens for one in usages)} of "
        f"{sum(one.prompt_tokens for one in usages)} prompt tokens",
        _because(f"recomputed {sum(one.recomputed_tokens for one in usages)}", *reasons),
        f"generated {sum(one.completion_tokens for one in usages)}",
        _because(f"durable: {last.durable or 'no'}", last.not_durable_because),
    ]
    if len(results) > 1:
        parts.insert(0, f"{len(results)} turns")
    return " · ".join(parts)


def _because(what: str, *reasons: str | None) -> str:
    known = [one for one in reasons if one]
    return f"{what} ({'; '.join(known)})" if known else what


def _commands(one: str) -> bool:
    return unicodedata.category(one) in ("Cc", "Cs") or bool(_TURN_AROUND.match(one))
