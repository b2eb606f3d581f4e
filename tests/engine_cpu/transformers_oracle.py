"""transformers' own Nemotron-H (its torch path): the reference for log-probabilities."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor


class TransformersModel:
    def __init__(self, checkpoint: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # It reports on every load that the kernels are its torch ones, which is what we want.
            logging.getLogger("transformers").setLevel(logging.ERROR)
            from transformers import NemotronHForCausalLM

            self.model = NemotronHForCausalLM.from_pretrained(
                checkpoint, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        for layer in self.model.model.layers:
            # transformers clamps dt in its chunked path but not in its one-token path, so it would
            # disagree with itself; SGLang and llama.cpp do not clamp.
            if hasattr(layer.mixer, "time_step_limit"):
                layer.mixer.time_step_limit = (0.0, float("inf"))

    def logprobs(self, tokens: list[int]) -> Tensor:
        """float32[len(tokens), vocabulary]: of the next token after each prefix, in one pass."""
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            logits = self.model(torch.tensor([tokens]), use_cache=False).logits[0]
        return logits.float().log_softmax(-1)

    def greedy(self, prompt: list[int], new_tokens: int) -> list[int]:
        """The most likely continuation, every token from a fresh pass over all before it."""
        tokens = list(prompt)
        for _ in range(new_tokens):
            tokens.append(int(self.logprobs(tokens)[-1].argmax()))
        return tokens[len(prompt) :]
