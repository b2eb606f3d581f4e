"""Random conversations of a wanted length, in tokens, with everything needed to train on them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from engine.demo_model import dialogues, filler
from engine.demo_model.dialogues import Exchange, Task
from engine.demo_model.mixes import PLAIN, Mix, Weights

# These neither tell nor ask anything that has to be kept.
_SELF_CONTAINED: frozenset[Task] = frozenset(("calculate", "search", "read", "repeat", "thank"))
_QUIET_FROM = 1024
_LONGEST_TEXT = 5000
# A dialogue is full when so many exchanges in a row did not fit.
_MOST_MISSES = 4
_CONTEXT, _ANSWER, _VALUE = 0, 1, 2
_ROLES = {"context": _CONTEXT, "answer": _ANSWER, "value": _VALUE}


@dataclass(frozen=True)
class Encoded:
    """A conversation, or a part of one, as tokens.

    ids: int64[length]; roles: int64[length], 0 context, 1 answer, 2 answer that cannot be guessed;
    questions: int64[length], n > 0 inside the n-th exchange that asks for the tally or the mode.
    """

    ids: NDArray[np.int64]
    roles: NDArray[np.int64]
    questions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


class Turn(NamedTuple):
    """One exchange of a dialogue, and its tokens."""

    exchange: Exchange
    encoded: Encoded


@dataclass
class Memory:
    """What the assistant has been told so far in one conversation."""

    facts: dict[str, str] = field(default_factory=dict)
    ticks: int = 0
    mode: str = dialogues.NO_MODE

    def copy(self) -> Memory:
        return Memory(dict(self.facts), self.ticks, self.mode)

    def answer_all(self) -> list[Exchange]:
        """Questions about everything: the last thing a long conversation asks."""
        recalls = [dialogues.recall(key, value) for key, value in self.facts.items()]
        return [*recalls, dialogues.tally(self.ticks), dialogues.ask_mode(self.mode)]


class Writer:
    """Draws exchanges and encodes them; everything it does follows from the seed."""

    def __init__(
        self,
        library: filler.Library,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        mix: Mix = PLAIN,
    ) -> None:
        self.library = library
        self.mix = mix
        self.tokenizer = tokenizer
        self.random = random.Random(seed)
        self._reading = filler.reading_documents(library)

    @cached_property
    def system_block(self) -> Encoded:
        """The turn that every real conversation begins with: system text and tools."""
        text = self.tokenizer.apply_chat_template(
            dialogues.messages([]), tools=dialogues.TOOLS, tokenize=False
        )
        ids = np.asarray(self.tokenizer.encode(str(text), add_special_tokens=False), np.int64)
        return Encoded(ids, np.zeros_like(ids), np.zeros_like(ids))

    def conversation(self, length: int, *, with_system: bool) -> Encoded:
        """A conversation of exactly `length` tokens: the last one is cut or padded with zeros."""
        parts = [self.system_block] if with_system else []
        turns = self.dialogue(length - sum(map(len, parts)), longest_text=length)
        return join([*parts, *(turn.encoded for turn in turns)], length)

    def dialogue(self, room: int, longest_text: int) -> list[Turn]:
        """Exchanges of at most `room` tokens together; the last ones ask for all there is to know.

        In half of the long dialogues nothing is told and nothing asked from some point on until
        the end, so that what is asked for last has to be kept for long.
        """
        memory, turns, used = Memory(), list[Turn](), 0
        weights = self.mix.weights(room)
        for task in ("tick", "set_mode"):
            weights[task] *= self.random.choice((0.25, 1.0, 2.5))
        is_long = room >= _QUIET_FROM
        quiet_from = room * (self.random.choice((1.0, 1.0, 0.5, 0.1)) if is_long else 1.0)
        ending: list[Turn] = []
        misses = 0
        while misses < _MOST_MISSES:
            later = memory.copy()
            quiet = used >= quiet_from
            exchange = self.draw(later, _quiet(weights) if quiet else weights, longest_text, quiet)
            turn = Turn(exchange, self.encode(exchange))
            if later != memory or not ending:
                questions = later.answer_all()
                self.random.shuffle(questions)
                later_ending = [Turn(question, self.encode(question)) for question in questions]
            else:
                later_ending = ending
            if used + len(turn.encoded) + sum(len(last.encoded) for last in later_ending) > room:
                misses += 1
                continue
            turns.append(turn)
            used += len(turn.encoded)
            memory, ending = later, later_ending
        return [*turns, *ending]

    def draw(
        self, memory: Memory, weights: Weights, longest_text: int, quiet: bool = False
    ) -> Exchange:
        """One random exchange that fits what was said before, which `memory` then includes.

        longest_text: characters, at most, of a text that the user shows.
        quiet: no tick is added to exchanges of other kinds.
        """
        tasks = [task for task in weights if self._is_possible(task, memory)]
        task = self.random.choices(tasks, [weights[task] for task in tasks])[0]
        exchange = self._draw(task, memory, longest_text)
        shown = task in ("calculate", "search", "recall", "thank")
        room = memory.ticks < dialogues.MOST_TICKS
        if shown and room and not quiet and self.random.random() < 0.08:
            memory.ticks += 1
            exchange = dialogues.with_tick(exchange)
        return exchange

    def encode(self, exchange: Exchange) -> Encoded:
        """Tokens of one exchange; the same as its part of the whole conversation's tokens."""
        spans = exchange.spans()
        encoding = self.tokenizer(
            "".join(span.text for span in spans),
            add_special_tokens=False,
            return_offsets_mapping=True,
        )
        ids = np.asarray(encoding["input_ids"], np.int64)
        # A token has the role of its last character: " red" is a value although its space is not.
        last = np.asarray([end - 1 for _, end in encoding["offset_mapping"]], np.int64)
        ends = np.cumsum([len(span.text) for span in spans])
        span_roles = np.asarray([_ROLES[span.role] for span in spans], np.int64)
        roles = span_roles[np.searchsorted(ends, last, side="right")]
        is_question = exchange.task in dialogues.STATE_QUESTIONS
        return Encoded(ids, roles, np.full_like(ids, int(is_question)))

    def word(self) -> str:
        """A word of the text or letters that are no word."""
        if self.mix.invented and self.random.random() < self.mix.invented:
            return self._invented_word()
        if self.random.random() < 0.75:
            return self.random.choice(self.library.words)
        syllables = self.random.randint(2, 4)
        return "".join(
            self.random.choice("bcdfghklmnprstvwz") + self.random.choice(("a", "e", "i", "o", "er"))
            for _ in range(syllables)
        )

    def _invented_word(self) -> str:
        while True:
            pieces = self.random.choices(self._letters, k=self.random.randint(1, 3))
            word = "".join(pieces)
            # Words of the other split stay out, also where one is a single token.
            if filler.may_be_used(word, self.library.split):
                return word

    @cached_property
    def _letters(self) -> list[str]:
        """What the tokens of the vocabulary stand for, where that is ASCII letters only."""
        texts = {str(self.tokenizer.decode([i])).strip() for i in range(len(self.tokenizer))}
        return sorted(text for text in texts if text.isascii() and text.isalpha())

    def text(self, characters: int) -> str:
        """A passage of real text that begins and ends at line breaks."""
        document = self.random.choice(self._reading)
        start = self.random.randrange(max(1, len(document.text) - characters))
        passage = document.text[start : start + characters]
        return passage.partition("\n")[2].rpartition("\n")[0].strip() or passage.strip()

    def search(self) -> Exchange:
        """A search for a word in parts of one to three documents under some file names."""
        count = self.random.choice((1, 1, 2, 3))
        parts = [self._file() for _ in range(count)]
        word = self.word()
        if self.random.random() < 0.6:
            text = self.random.choice(parts).text
            known = [word for word in text.split() if word in self._known_words]
            word = self.random.choice(known) if known else word
        return dialogues.search(word, filler.search(parts, word))

    def _file(self) -> filler.Document:
        document = self.random.choice(self.library.documents)
        start = self.random.randrange(max(1, len(document.lines) - 20))
        lines = document.lines[start : start + self.random.choice((50, 300, 1000))]
        return filler.Document(self._file_name(document), "\n".join(lines))

    @cached_property
    def _known_words(self) -> frozenset[str]:
        return frozenset(self.library.words)

    def _file_name(self, document: filler.Document) -> str:
        if self.random.random() < 0.3:
            return document.name
        stem = self.word()
        stem = self.random.choice((stem, stem.upper()[:4], stem.capitalize()))
        number = self.random.choice(("", f"-{self.random.randint(1, 9)}", "-1.0", "-2.1"))
        return stem + number + self.random.choice(("", "", ".txt"))

    def _text_length(self, most: int) -> int:
        if self.mix.even_texts:
            return round(60 * math.pow(most / 60, self.random.random()))
        return self.random.randint(60, most)

    def _number(self) -> int:
        return self.random.randrange(10 ** self.random.randint(1, 4))

    def _is_possible(self, task: Task, memory: Memory) -> bool:
        if task == "recall":
            return bool(memory.facts)
        if task == "remember":
            return len(memory.facts) < 3
        return task != "tick" or memory.ticks < dialogues.MOST_TICKS

    def _draw(self, task: Task, memory: Memory, longest_text: int) -> Exchange:
        match task:
            case "calculate":
                left, right = self._number(), self._number()
                operator = self.random.choice("+-*")
                if operator == "-":
                    left, right = max(left, right), min(left, right)
                return dialogues.calculate(left, operator, right)
            case "search":
                return self.search()
            case "read":
                most = min(_LONGEST_TEXT, max(200, longest_text))
                return dialogues.read(self.text(self._text_length(most)))
            case "remember":
                key, code = self.word(), f"{self.random.randrange(10000):04d}"
                memory.facts[key] = code
                return dialogues.remember(key, code)
            case "recall":
                key = self.random.choice(list(memory.facts))
                return dialogues.recall(key, memory.facts[key])
            case "tick":
                memory.ticks += 1
                return dialogues.tick()
            case "tally":
                return dialogues.tally(memory.ticks)
            case "set_mode":
                memory.mode = self.random.choice(dialogues.MODES)
                return dialogues.set_mode(memory.mode)
            case "mode":
                return dialogues.ask_mode(memory.mode)
            case "repeat":
                return dialogues.repeat(
                    " ".join(self.word() for _ in range(self.random.choice((1, 2, 3))))
                )
            case "thank":
                return dialogues.thank()


def _quiet(weights: Weights) -> Weights:
    return {task: weight for task, weight in weights.items() if task in _SELF_CONTAINED}


def join(parts: list[Encoded], length: int) -> Encoded:
    """Puts parts one after the other, cut or padded with zeros to `length` tokens."""
    numbers = np.cumsum([int(part.questions.any()) for part in parts])
    columns = (
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.roles for part in parts]),
        np.concatenate([part.questions * n for part, n in zip(parts, numbers, strict=True)]),
    )
    padded = [np.pad(column[:length], (0, max(0, length - len(column)))) for column in columns]
    return Encoded(*padded)
