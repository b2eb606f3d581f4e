"""The checkpoint on disk: what transformers and SGLang load, and what we load back."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from engine.demo_model.architecture import Architecture
from engine.demo_model.network import Network
from engine.demo_model.tokenizer import PAD, TURN_END

WEIGHTS = "model.safetensors"


def save_checkpoint(network: Network, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes config, generation config and float32 weights; the tokenizer is saved on its own."""
    folder.mkdir(parents=True, exist_ok=True)
    pad, end = (tokenizer.convert_tokens_to_ids(token) for token in (PAD, TURN_END))
    tokens = {"bos_token_id": pad, "eos_token_id": end, "pad_token_id": pad}
    config = network.shape.to_config(**tokens)
    generation = tokens | {"do_sample": False}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", "utf-8")
    save_file(to_checkpoint(network.state_dict()), folder / WEIGHTS, metadata={"format": "pt"})


def load_network(folder: Path) -> Network:
    """The network of a saved checkpoint, in evaluation mode."""
    network = Network(Architecture())
    network.load_state_dict(from_checkpoint(load_file(folder / WEIGHTS)))
    return network.eval()


def to_checkpoint(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames weights to NVIDIA's checkpoint names: `backbone.`, and one tensor per expert."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.replace("model.", "backbone.", 1) if name.startswith("model.") else name
        if ".experts." not in name:
            renamed[name] = tensor.contiguous()
            continue
        before, after = name.split(".experts.")
        for expert, weight in enumerate(tensor):
            renamed[f"{before}.experts.{expert}.{after}.weight"] = weight.contiguous().clone()
    return renamed


def from_checkpoint(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undoes `to_checkpoint`."""
    state: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in weights.items():
        name = name.replace("backbone.", "model.", 1) if name.startswith("backbone.") else name
        if ".experts." not in name:
            state[name] = tensor
            continue
        before, after = name.split(".experts.")
        expert, projection, _ = after.split(".")
        experts.setdefault(f"{before}.experts.{projection}", {})[int(expert)] = tensor
    for name, by_expert in experts.items():
        state[name] = torch.stack([by_expert[expert] for expert in sorted(by_expert)])
    return state
