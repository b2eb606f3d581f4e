"""The checkpoint in transformers: an implementation that shares no code with training or serving.

It reads a conversation piece by piece, answers greedily, and lets its recurrent state be cleared or
exchanged while the attention keys and values stay.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache, NemotronHForCausalLM

from engine.demo_model.tokenizer import TURN_END

_PIECE = 512


class Oracle:
    """A checkpoint loaded by transformers, with its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = load_reference_model(folder)
        self.end = int(self.tokenizer.convert_tokens_to_ids(TURN_END))

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def start(self) -> Reading:
        """An empty conversation."""
        return Reading(self)


class Reading:
    """One conversation: the tokens read so far, as a transformers cache.

    `tokens` counts them. A Mamba layer of the cache holds `conv_states[0]`, float32[1, channels,
    kernel], and `recurrent_states[0]`, float32[1, heads, head size, state size].
    """

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._cache: Any = DynamicCache(config=oracle.model.config)
        self._logits: Tensor | None = None
        self.tokens = 0

    def fork(self) -> Reading:
        """A copy that goes on by itself."""
        twin = copy.copy(self)
        twin._cache = copy.deepcopy(self._cache)
        return twin

    def read(self, ids: Sequence[int]) -> Reading:
        """Takes tokens in; returns itself."""
        for piece in torch.split(torch.tensor([ids]), _PIECE, dim=1):
            self._logits = self._forward(piece)
            self.tokens += piece.shape[1]
        return self

    @property
    def logits(self) -> Tensor:
        """Those of the next token, float32[vocab]; ValueError before anything was read."""
        if self._logits is None:
            raise ValueError("nothing was read yet, so there is nothing to predict from")
        return self._logits[0, -1]

    def answer(self, limit: int) -> list[int]:
        """Greedy continuation until the end of the turn, which is included, or `limit` tokens.

        The tokens are read as well, except the last one: reading its successor needs it first.
        """
        answer: list[int] = []
        while True:
            answer.append(int(self.logits.argmax()))
            if answer[-1] == self._oracle.end or len(answer) == limit:
                return answer
            self.read(answer[-1:])

    def clear_state(self) -> Reading:
        """Zeroes convolution and SSM state; keys and values stay."""
        for state in self.states():
            state.zero_()
        return self

    def take_state(self, other: Reading) -> Reading:
        """Copies convolution and SSM state from another conversation; keys and values stay."""
        for own, foreign in zip(self.states(), other.states(), strict=True):
            own.copy_(foreign)
        return self

    def states(self) -> Iterator[Tensor]:
        """Convolution and SSM state of each Mamba layer in turn; writing to them changes it."""
        for layer in self._cache.layers:
            # A layer that is no Mamba layer has a place in the cache too, which stays empty.
            if hasattr(layer, "recurrent_states") and layer.recurrent_states[0] is not None:
                yield layer.conv_states[0]
                yield layer.recurrent_states[0]

    def keys_and_values(self) -> Iterator[Tensor]:
        """Those of each attention layer in turn, float32[1, heads, tokens, head size]; likewise."""
        for layer in self._cache.layers:
            if getattr(layer, "keys", None) is not None:
                yield from (layer.keys, layer.values)

    def _forward(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            output = self._oracle.model(
                ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
        logits: Tensor = output.logits
        return logits


def load_reference_model(folder: Path) -> Any:
    """`NemotronHForCausalLM` in float32 and evaluation mode, with its time step left unclamped.

    transformers clamps the time step from below while it reads many tokens, but not while it reads
    one, so that its answers depend on how the text was split; SGLang never clamps.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = NemotronHForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for layer in model.model.layers:
        if hasattr(layer.mixer, "time_step_limit"):
            layer.mixer.time_step_limit = (0.0, math.inf)
    return model
