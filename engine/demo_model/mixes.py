"""What conversations are made of: how often each kind of exchange comes, and which words."""

from __future__ import annotations

from dataclasses import dataclass

from engine.demo_model.dialogues import Task

Weights = dict[Task, float]


@dataclass(frozen=True)
class Mix:
    """short, long: how often each kind of exchange is drawn, in short and in long conversations;
    ticks and modes have rates of their own per conversation.
    invented: share of words that are put together from any letters the tokenizer has tokens for.
    even_texts: lengths of texts to read are spread evenly on a logarithmic scale.
    """

    short: Weights
    long: Weights
    invented: float = 0.0
    even_texts: bool = False

    def weights(self, tokens: int) -> Weights:
        """A copy of the weights for a conversation of so many tokens."""
        return dict(self.long if tokens >= _LONG_FROM else self.short)


_LONG_FROM = 1024
_SHORT: Weights = {
    "calculate": 2.0, "search": 1.5, "read": 0.5, "remember": 1.2, "recall": 2.0, "tick": 2.0,
    "tally": 1.5, "set_mode": 1.0, "mode": 1.5, "repeat": 3.0, "thank": 0.2,
}  # fmt: skip
PLAIN = Mix(_SHORT, _SHORT | {"read": 4.0, "repeat": 0.5, "remember": 1.0})
# With arbitrary letters every token is copied at times, not only those in words of the training
# text: without them, words that the model has never seen came back with wrong endings.
VARIED = Mix(
    _SHORT,
    _SHORT | {"read": 3.0, "repeat": 1.0, "remember": 1.0, "tally": 2.5, "mode": 2.5},
    invented=0.5,
    even_texts=True,
)
# Most of all what has to be remembered: the tasks in which mistakes were left.
REMEMBERING = Mix(
    _SHORT | {"remember": 1.5, "recall": 4.0, "tally": 3.0, "set_mode": 1.5, "mode": 3.0},
    _SHORT
    | {"read": 2.0, "remember": 1.5, "recall": 4.0, "tally": 3.0, "set_mode": 1.5, "mode": 3.0},
    invented=0.5,
    even_texts=True,
)
