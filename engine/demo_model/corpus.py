"""The text that the tokenizer learns its merges from."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from engine.demo_model import conversations, dialogues, filler
from engine.demo_model.mixes import Weights

_DIALOGUES = 4000


def tokenizer_corpus(library: filler.Library) -> Iterator[str]:
    """All training text, then many exchanges, so that their fixed wording gets whole tokens."""
    for document in library.documents:
        yield document.text
    blank = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    writer = conversations.Writer(library, blank, seed=0)
    memory = conversations.Memory()
    weights: Weights = {task: 1.0 for task in dialogues.ALL_TASKS if task != "read"}
    for _ in range(_DIALOGUES):
        memory.ticks %= dialogues.MOST_TICKS
        exchange = writer.draw(memory, weights, longest_text=0)
        yield "".join(span.text for span in exchange.spans())
    yield from _tool_descriptions()


def _tool_descriptions() -> Iterator[str]:
    for tool in dialogues.TOOLS:
        yield str(tool) * 200
