"""What a tool may know and say while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OnProgress = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """How far a call has come. done, total: in any unit; total is None where it is not known."""

    text: str
    done: float | None = None
    total: float | None = None


def _unheard(progress: Progress) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Context:
    """Give a tool a parameter of this type to have it; the model does not see that parameter.

    key:        of the call's effect, the same whenever this very call is made again in its branch,
                and in no other: give it to a service that does nothing twice for one key
    dry_run:    say what would be done, and do nothing
    on_progress: may be called from any thread
    """

    key: str = ""
    dry_run: bool = False
    on_progress: OnProgress = _unheard

    def report(self, text: str, done: float | None = None, total: float | None = None) -> None:
        """Tell whoever listens how far the call has come."""
        self.on_progress(Progress(text, done, total))
