"""A checkpoint whose draft layer is often right but not always, whatever `models/demo` learned.

Speculation is only tested where some drafts are accepted and some are not. Same architecture and
config as the demo model; the weights make each token mostly, not fully, determined by the one
before it, which the draft layer sees too: the output matrix is a permuted embedding, and every
layer adds a little that depends on all of the past.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

LAYER_SCALE = 0.65
_KEPT = ("A_log", "dt_bias", "mixer.D", "conv1d.bias")
_OUTPUTS = ("out_proj.weight", "o_proj.weight", "down_proj.weight", "fc2_latent_proj.weight")


def write_agreeing_checkpoint(like: Path, target: Path) -> None:
    target.mkdir()
    for name in ("config.json", "generation_config.json"):
        shutil.copy(like / name, target)
    rng = torch.Generator().manual_seed(0)
    shapes = load_file(like / "model.safetensors")
    weights = {name: _weight(name, shapes[name], rng) for name in sorted(shapes)}
    embeddings = weights["backbone.embeddings.weight"]
    following = torch.randperm(len(embeddings), generator=rng)
    head = torch.empty_like(embeddings)
    head[following] = embeddings
    weights["lm_head.weight"] = head * 2 / embeddings.shape[1] ** 0.5
    # The draft layer reads [norm(embedding of the newest token), norm(hidden state)].
    merge = weights["mtp.layers.0.eh_proj.weight"] * 0.2
    merge[:, : len(merge)] += torch.eye(len(merge))
    weights["mtp.layers.0.eh_proj.weight"] = merge
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def _weight(name: str, like: Tensor, rng: torch.Generator) -> Tensor:
    if name.endswith(_KEPT):
        return like.clone()
    noise = torch.randn(like.shape, generator=rng)
    if name == "backbone.embeddings.weight":
        return noise
    if name.endswith("e_score_correction_bias"):
        return noise * 0.05
    if "norm" in name:
        return 1 + 0.1 * noise
    scale = LAYER_SCALE if name.endswith(_OUTPUTS) else 1.0
    return noise * scale / like.shape[-1] ** 0.5
