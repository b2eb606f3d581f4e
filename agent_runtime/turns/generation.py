"""What came out of the engines for one turn, and what of the prompt it had to compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent_runtime.messages.histories import History
from agent_runtime.messages.rewriting import Rewriting
from agent_runtime.turns.placing import Placement
from agent_runtime.wire.turns import Usage
from engine.client import TokenLogprobs
from engine.pool import Engine


@dataclass
class Generation:
    """What came out of the engines for one turn.

    placement:   where it was begun, and after a failure where it goes on
    reasons:     why that engine computes again what was known
    failed_over: what made it change engines
    marks:       token counts inside the prompt at which a state is wanted, see `marks.py`
    stopped_by:  the text that the client wanted it to end at
    """

    placement: Placement
    reasons: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    cached_tokens: int = 0
    finish_reason: str = "length"
    stopped_by: str | None = None
    accept_length: float | None = None
    first_token_at: float | None = None
    failed_over: list[str] = field(default_factory=list)
    marks: tuple[int, ...] = ()

    @property
    def engine(self) -> Engine:
        return self.placement.engine

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """The block's turn counts as one of the engine's, which placing looks at."""
        self.engine.turns += 1
        try:
            yield
        finally:
            self.engine.turns -= 1

    def end_after(self, tokens: int, *, stopped_by: str) -> None:
        """Forget what came after so many tokens: the last one completes that text."""
        del self.ids[tokens:]
        del self.logprobs[tokens:]
        self.finish_reason, self.stopped_by = "stop", stopped_by

    def move(self, placement: Placement) -> None:
        self.engine.turns -= 1
        self.placement = placement
        self.engine.turns += 1


def usage_of(
    history: History,
    prompt_delta: list[int],
    generation: Generation,
    rewriting: Rewriting | None = None,
) -> Usage:
    reused, reasons = generation.cached_tokens, generation.reasons
    if rewriting is not None:
        reasons = [
            "the template shows earlier turns differently now: rendered anew after "
            f"{rewriting.kept} tokens",
            *reasons,
        ]
    recomputed = max(0, len(history.tokens) - reused)
    if reused < history.boundary and not reasons:
        reasons = ["the engine no longer held the head's boundary (evicted or flushed)"]
    return Usage(
        prompt_tokens=len(history.tokens) + len(prompt_delta),
        completion_tokens=len(generation.ids),
        reused_tokens=reused,
        recomputed_tokens=recomputed,
        boundary_tokens=history.boundary,
        rewritten_tokens=0 if rewriting is None else rewriting.tokens,
        recompute_reason="; ".join(reasons) or ("past the last boundary" if recomputed else None),
    )


def without_eos(ids: list[int], eos_id: int) -> list[int]:
    return ids[:-1] if ids and ids[-1] == eos_id else ids
