"""Scores on held-out dialogues: words, numbers and text that training never saw.

Every answer is generated greedily by the transformers implementation, one token at a time, and is
right only if its text equals the expected text to the last character. The conversation then goes
on with the expected answer, so that one mistake is counted once.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.demo_model import ablation, drafting, filler
from engine.demo_model.conversations import Encoded, Turn, Writer
from engine.demo_model.dialogues import Exchange
from engine.demo_model.oracle import Oracle

_ANSWER_SLACK = 8
_DISTANCES = (500, 2000, 8000)


@dataclass(frozen=True)
class Sample:
    """How much is evaluated: (tokens, number of conversations), and pairs for the ablation."""

    conversations: tuple[tuple[int, int], ...] = ((1024, 16), (4096, 6), (8192, 6), (12288, 5))
    ablation_pairs: tuple[tuple[int, int], ...] = ((1024, 12), (8192, 4))
    seed: int = 1000


class Answer(NamedTuple):
    """One generated reply.

    step: `call` for a tool call, else `answer`. distance: tokens since what the answer needs was
    last mentioned, None where it was never mentioned or stands in the same exchange.
    context: tokens before the reply.
    """

    task: str
    step: str
    right: bool
    distance: int | None
    context: int
    expected: str
    generated: str


def evaluate(folder: Path, sample: Sample = Sample()) -> dict[str, Any]:
    """All scores of a checkpoint, as numbers that JSON can hold; progress goes to stderr."""
    oracle = Oracle(folder)
    writer = Writer(filler.load_library("held_out"), oracle.tokenizer, sample.seed)
    answers: list[Answer] = []
    dialogues: list[Encoded] = []
    for length, count in sample.conversations:
        for number in range(count):
            turns = writer.dialogue(length - len(writer.system_block), longest_text=length)
            answers += answer_all(oracle, writer.system_block, turns)
            dialogues.append(join_turns(writer.system_block, turns))
            _report(f"{length} tokens, conversation {number + 1} of {count}", answers)
    return {
        "answers": len(answers),
        "right": _share(answer.right for answer in answers),
        "tasks": by_task(answers),
        "tasks_beyond_8000_tokens": by_task(a for a in answers if a.context >= _DISTANCES[-1]),
        "distances": by_distance(answers),
        "state": ablation.measure(oracle, writer, sample.ablation_pairs),
        "drafts": drafting.measure(folder, dialogues),
    }


def answer_all(oracle: Oracle, system: Encoded, turns: Sequence[Turn]) -> Iterator[Answer]:
    """Replays a dialogue after the system block and generates every reply in it."""
    reading = oracle.start().read(system.ids.tolist())
    mentions: dict[str, int] = {}
    for turn in turns:
        subject = _subject(turn.exchange)
        mentioned = mentions.get(subject) if subject else None
        distance = None if mentioned is None else reading.tokens - mentioned
        for prompt, reply in segments(turn.encoded):
            reading.read(prompt)
            if not reply:
                continue
            before, context = reading.fork(), reading.tokens
            generated = reading.answer(len(reply) + _ANSWER_SLACK)
            expected_text, text = oracle.decode(reply), oracle.decode(generated)
            step = "call" if "<tool_call>" in expected_text else "answer"
            yield Answer(
                turn.exchange.task, step, text == expected_text, distance, context,
                expected_text, text,
            )  # fmt: skip
            if generated == reply:
                reading.read(reply[-1:])
            else:
                reading = before.read(reply)
        for told in _tells(turn.exchange):
            mentions[told] = reading.tokens


def segments(encoded: Encoded) -> Iterator[tuple[list[int], list[int]]]:
    """Splits an exchange into what is given and the reply to it; the last reply may be empty."""
    is_reply = encoded.roles > 0
    starts = np.flatnonzero(np.diff(is_reply, prepend=False))
    pieces = [piece.tolist() for piece in np.split(encoded.ids, starts)]
    for given in range(0, len(pieces), 2):
        yield pieces[given], pieces[given + 1] if given + 1 < len(pieces) else []


def join_turns(system: Encoded, turns: Sequence[Turn]) -> Encoded:
    """A whole dialogue as one piece, the system block first."""
    parts = [system, *(turn.encoded for turn in turns)]
    columns = ("ids", "roles", "questions")
    return Encoded(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def by_task(answers: Iterable[Answer]) -> dict[str, dict[str, float]]:
    """Share of right replies and their number, for each task; tool calls apart from answers."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        groups[f"{answer.task} {answer.step}"].append(answer.right)
    return {name: _score(groups[name]) for name in sorted(groups)}


def by_distance(answers: Iterable[Answer]) -> dict[str, dict[str, dict[str, float]]]:
    """The same for what is kept, by tokens since it was last mentioned."""
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for answer in answers:
        if answer.distance is not None:
            groups[answer.task][_bucket(answer.distance)].append(answer.right)
    return {
        task: {name: _score(groups[task][name]) for name in _BUCKETS if name in groups[task]}
        for task in sorted(groups)
    }


_BUCKETS = (
    f"under {_DISTANCES[0]}",
    *(f"{low} to {high}" for low, high in pairwise(_DISTANCES)),
    f"{_DISTANCES[-1]} and more",
)


def _bucket(distance: int) -> str:
    return _BUCKETS[sum(distance >= edge for edge in _DISTANCES)]


def _subject(exchange: Exchange) -> str:
    """What must have been told before for this to be answered, or nothing."""
    match exchange.task:
        case "recall":
            return exchange.value
        case "tally":
            return "ticks"
        case "mode":
            return "mode"
    return ""


def _tells(exchange: Exchange) -> Iterator[str]:
    """What later questions need and this exchange mentions."""
    if exchange.task == "remember":
        yield exchange.user.removeprefix("Remember: the code of ").removesuffix(".")
    if exchange.task == "set_mode":
        yield "mode"
    if exchange.user.startswith("Tick."):
        yield "ticks"
    if subject := _subject(exchange):
        yield subject


def _score(right: Sequence[bool]) -> dict[str, float]:
    return {"right": _share(right), "asked": len(right)}


def _share(right: Iterable[bool]) -> float:
    values = list(right)
    return round(sum(values) / len(values), 4) if values else 0.0


def _report(what: str, answers: Sequence[Answer]) -> None:
    share = _share(answer.right for answer in answers)
    print(f"{what}: {len(answers)} answers so far, {share:.1%} right", file=sys.stderr, flush=True)
