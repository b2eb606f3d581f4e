"""What the recurrent state alone decides: questions asked with another state than one's own.

At a turn boundary the convolution and SSM state of a conversation is zeroed, or exchanged for that
of another conversation, while its attention keys and values stay. Then the tally and the mode are
asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from engine.demo_model import dialogues
from engine.demo_model.conversations import Memory, Turn, Writer
from engine.demo_model.dialogues import Exchange
from engine.demo_model.oracle import Oracle, Reading

_ASKING = frozenset(("recall", "tally", "mode"))


class Told(NamedTuple):
    """A conversation up to its last questions, and what it said."""

    reading: Reading
    memory: Memory


def measure(
    oracle: Oracle, writer: Writer, pairs: Sequence[tuple[int, int]]
) -> dict[str, dict[str, float]]:
    """Answers under each kind of state, over pairs of conversations that were told other things.

    pairs: (tokens of a conversation, number of pairs). For each question: `own right`, `zeroed
    right`, `exchanged right` and `exchanged other`, the share of answers that are right for the
    conversation whose state was put in; `asked` is the number of questions.
    """
    counts: dict[str, Counter[str]] = {"tally": Counter(), "mode": Counter()}
    for length, count in pairs:
        for _ in range(count):
            first = _tell(oracle, writer, length)
            second = _tell(oracle, writer, length)
            for one, other in ((first, second), (second, first)):
                for question in ("tally", "mode"):
                    counts[question] += _ask(oracle, writer, question, one, other)
    return {
        question: {"asked": counted["asked"]}
        | {
            name: round(counted[name] / max(1, counted["asked"]), 4)
            for name in ("own right", "zeroed right", "exchanged right", "exchanged other")
        }
        for question, counted in counts.items()
    }


def _tell(oracle: Oracle, writer: Writer, length: int) -> Told:
    """Draws conversations until one has counted and set something, and reads it."""
    while True:
        turns = writer.dialogue(length - len(writer.system_block), longest_text=length)
        while turns and turns[-1].exchange.task in _ASKING:
            turns.pop()
        memory = recount(turns)
        if memory.ticks and memory.mode != dialogues.NO_MODE:
            break
    reading = oracle.start().read(writer.system_block.ids.tolist())
    for turn in turns:
        reading.read(turn.encoded.ids.tolist())
    return Told(reading, memory)


def recount(turns: Sequence[Turn]) -> Memory:
    """Ticks and mode of a dialogue, worked out from its user messages."""
    memory = Memory()
    for turn in turns:
        memory.ticks += turn.exchange.user.startswith("Tick.")
        if turn.exchange.task == "set_mode":
            memory.mode = turn.exchange.user.removeprefix("Mode: ").removesuffix(".")
    return memory


def _ask(oracle: Oracle, writer: Writer, question: str, one: Told, other: Told) -> Counter[str]:
    own, foreign = _question(question, one.memory), _question(question, other.memory)
    if own == foreign:
        return Counter()
    kept = _reply(oracle, writer, own, one.reading.fork())
    zeroed = _reply(oracle, writer, own, one.reading.fork().clear_state())
    exchanged = _reply(oracle, writer, own, one.reading.fork().take_state(other.reading))
    return Counter(
        {
            "asked": 1,
            "own right": kept == own.answer,
            "zeroed right": zeroed == own.answer,
            "exchanged right": exchanged == own.answer,
            "exchanged other": exchanged == foreign.answer,
        }
    )


def _question(question: str, memory: Memory) -> Exchange:
    return dialogues.tally(memory.ticks) if question == "tally" else dialogues.ask_mode(memory.mode)


def _reply(oracle: Oracle, writer: Writer, asked: Exchange, reading: Reading) -> str:
    """The generated answer to a question, without the end of the turn."""
    encoded = writer.encode(asked)
    prompt = encoded.ids[: int((encoded.roles > 0).argmax())]
    reply = reading.read(prompt.tolist()).answer(limit=24)
    return oracle.decode(reply[:-1] if reply[-1] == oracle.end else reply)
