"""The tokenizer: byte-level BPE with single-digit numbers and one token per chat marker."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Hidden from users when a server skips special tokens.
CONTROL_TOKENS = (PAD, TURN_START, TURN_END)
# Single tokens that servers must still show, because parsers of tool calls and thinking read them.
MARKUP_TOKENS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "<function=", "</function>", "<parameter=", "</parameter>", "<tools>", "</tools>", "<function>",
    "<name>", "</name>", "<description>", "</description>", "<parameters>", "</parameters>",
    "<parameter>", "<type>", "</type>", "<required>", "</required>",
)  # fmt: skip
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def train_tokenizer(corpus: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns byte-level BPE merges from text; the same text always gives the same tokenizer.

    Any byte sequence that is valid UTF-8 can be encoded and comes back unchanged.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(  # type: ignore[no-untyped-call]
        vocab_size=vocab_size,
        special_tokens=[*_added(CONTROL_TOKENS), *_added(MARKUP_TOKENS)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    # The trainer makes every token that it is given a special one, also in the object it was given.
    plain = Tokenizer.from_str(_without_added_tokens(tokenizer.to_str()))
    plain.add_special_tokens(_added(CONTROL_TOKENS))
    plain.add_tokens(_added(MARKUP_TOKENS))
    return plain


def _added(texts: Iterable[str]) -> list[AddedToken]:
    return [AddedToken(text, special=False, normalized=False) for text in texts]


def _without_added_tokens(serialized: str) -> str:
    description = json.loads(serialized)
    description["added_tokens"] = []
    return json.dumps(description)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the tokenizer and the chat template so that `AutoTokenizer` loads them."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD,
        bos_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=1048576,
    )
    wrapped.chat_template = CHAT_TEMPLATE.read_text("utf-8")
    wrapped.save_pretrained(folder)
