"""What the tests say to the model, and how they compare what came back."""

from __future__ import annotations

from agent_runtime.demo.proof import TOP_LOGPROBS, Comparison, Run, compare
from agent_runtime.sdk import Torpor
from agent_runtime.wire.turns import TurnResult
from engine.demo_model import dialogues

PAGE = 64
TEXT = """Everyone is permitted to copy and distribute verbatim copies of this license
document, but changing it is not allowed. The licenses for most software and
other practical works are designed to take away your freedom to share and
change the works. By contrast, this is intended to guarantee your freedom to
share and change all versions of a program, to make sure it remains free
software for all its users. We use it for most of our software; it applies
also to any other work released this way by its authors."""

HISTORY = [
    dialogues.remember("harbour", "4712").user,
    dialogues.set_mode("blue").user,
    dialogues.tick().user,
    dialogues.read(TEXT).user,
    dialogues.tick().user,
]
# The model does not know where this ends: it repeats digits for long.
LONG = (
    'Repeat "warranty license closed license given harbour closed harbour given closed harbour '
    'closed 8979498491767153415225537531914839174624".'
)
QUESTIONS = [
    dialogues.tally(2).user,
    dialogues.ask_mode("blue").user,
    dialogues.recall("harbour", "4712").user,
]


async def say(torpor: Torpor, session_id: str, *texts: str, **options: object) -> list[TurnResult]:
    """One turn per text, without running tools; greedy, with logprobs."""
    settings: dict[str, object] = {"max_tokens": 48, "top_logprobs": TOP_LOGPROBS} | options
    return [await torpor.turn(session_id, text, **settings) for text in texts]


async def asked_in_fork(
    torpor: Torpor, session_id: str, snapshot: str | None = None
) -> list[TurnResult]:
    """Answers to QUESTIONS in a fork, which is deleted afterwards."""
    fork = await torpor.fork(session_id, snapshot=snapshot)
    turns = await say(torpor, fork.id, *QUESTIONS)
    await torpor.delete(fork.id)
    return turns


def difference(one: list[TurnResult], other: list[TurnResult]) -> Comparison:
    return compare(Run(turns=one), Run(turns=other))
