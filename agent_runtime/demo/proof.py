"""Running a branch of the demo and comparing it with the same branch never interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent_runtime.demo.script import Say
from agent_runtime.graph import Agent, Step, ask
from agent_runtime.wire.turns import TurnResult

TOP_LOGPROBS = 5


@dataclass
class Run:
    """The model turns of one branch, in order; how many answers were known beforehand, and those
    that were not as expected, each with its question."""

    turns: list[TurnResult] = field(default_factory=list)
    expected: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        snapshot = self.turns[-1].snapshot
        assert snapshot is not None, "an uncommitted turn has no head"
        return snapshot

    @property
    def accept_length(self) -> float | None:
        """Mean tokens committed per verify step, over all turns."""
        lengths = [t.mtp_accept_length for t in self.turns if t.mtp_accept_length is not None]
        return sum(lengths) / len(lengths) if lengths else None


async def play(
    agent: Agent, session_id: str, said: Sequence[Say], done: Callable[[], object]
) -> Run:
    """Say everything in turn, with tool calls as the model wants them."""
    run = Run()
    for say in said:
        steps = await ask(agent, session_id, say.text)
        run.turns += [step.turn for step in steps if step.turn is not None]
        if say.expect is not None:
            run.expected += 1
            if say.expect not in (answer := _answer(steps)):
                run.wrong.append(f"{say.text} {answer}")
        done()
    return run


@dataclass(frozen=True)
class Comparison:
    """identical: same token ids, turn by turn; logprob_difference: largest, over the chosen and
    the most likely alternatives at every position (0.0 means equal to the bit)."""

    identical: bool
    tokens: int
    logprob_difference: float


def compare(one: Run, other: Run) -> Comparison:
    ids = [[turn.token_ids for turn in run.turns] for run in (one, other)]
    if ids[0] != ids[1]:
        return Comparison(False, 0, float("inf"))
    largest = 0.0
    for turn, twin in zip(one.turns, other.turns, strict=True):
        for position, again in zip(turn.logprobs, twin.logprobs, strict=True):
            if [top.token for top in position.top] != [top.token for top in again.top]:
                return Comparison(False, 0, float("inf"))
            pairs = zip(
                [position.logprob, *(top.logprob for top in position.top)],
                [again.logprob, *(top.logprob for top in again.top)],
                strict=True,
            )
            largest = max(largest, *(abs(a - b) for a, b in pairs))
    return Comparison(True, sum(map(len, ids[0])), largest)


def _answer(steps: Sequence[Step]) -> str:
    return " ".join(step.text for step in steps if step.kind == "model")
