"""A Nemotron-H checkpoint in Hugging Face format -> one float32 GGUF file for llama.cpp.

llama.cpp's own converter needs its source tree; this writes the same tensors with the `gguf`
package. The tokenizer is left out unless asked for (token ids go in and out), and MTP always, which
llama.cpp does not run for this architecture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

Weights = dict[str, Tensor]


def write_gguf(checkpoint: Path, target: Path, *, tokenizer: bool = False) -> None:
    """tokenizer: write it too, with the chat template; text and chats need them"""
    config = json.loads((checkpoint / "config.json").read_text())
    weights = load_file(checkpoint / "model.safetensors")
    writer = gguf.GGUFWriter(target, "nemotron_h_moe")
    _write_parameters(writer, config)
    if tokenizer:
        _write_tokenizer(writer, checkpoint)
    else:
        writer.add_tokenizer_model("none")
    for name, tensor in _tensors(config, weights):
        writer.add_tensor(name, np.ascontiguousarray(tensor.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_parameters(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    pattern = config["hybrid_override_pattern"]

    def only(kind: str, value: int) -> list[int]:
        return [value if layer == kind else 0 for layer in pattern]

    writer.add_block_count(len(pattern))
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)

    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(only("*", config["num_key_value_heads"]))
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])  # required, though there is no rotation

    writer.add_ssm_conv_kernel(config["conv_kernel"])
    writer.add_ssm_inner_size(config["mamba_num_heads"] * config["mamba_head_dim"])
    writer.add_ssm_state_size(config["ssm_state_size"])
    writer.add_ssm_time_step_rank(config["mamba_num_heads"])
    writer.add_ssm_group_count(config["n_groups"])

    writer.add_feed_forward_length(only("E", config["moe_intermediate_size"]))
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_feed_forward_length(config["moe_shared_expert_intermediate_size"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_group_count(config["n_group"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_moe_latent_size(config["moe_latent_size"])


def _write_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path) -> None:
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    words |= {content: token["id"] for content, token in added.items()}

    def kind(word: str) -> gguf.TokenType:
        if word not in added:
            return gguf.TokenType.NORMAL
        special = added[word]["special"]
        return gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED

    in_order = sorted(words, key=words.__getitem__)
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre("smollm")  # GPT-2's words, every digit on its own
    writer.add_token_list(in_order)
    writer.add_token_types([kind(word) for word in in_order])
    writer.add_token_merges(
        [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    )
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    writer.add_bos_token_id(words[config["bos_token"]])
    writer.add_eos_token_id(words[config["eos_token"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template((checkpoint / "chat_template.jinja").read_text())


def _tensors(config: dict[str, Any], weights: Weights) -> Iterator[tuple[str, Tensor]]:
    yield "token_embd.weight", weights["backbone.embeddings.weight"]
    yield "output_norm.weight", weights["backbone.norm_f.weight"]
    yield "output.weight", weights["lm_head.weight"]
    layers = {"M": _mamba, "*": _attention, "E": _experts}
    for index, kind in enumerate(config["hybrid_override_pattern"]):
        layer = f"backbone.layers.{index}."
        yield f"blk.{index}.attn_norm.weight", weights[layer + "norm.weight"]
        prefix = layer + "mixer."
        mixer = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        for name, tensor in layers[kind](config, mixer):
            yield f"blk.{index}.{name}", tensor


def _mamba(config: dict[str, Any], mixer: Weights) -> Iterator[tuple[str, Tensor]]:
    yield "ssm_in.weight", mixer["in_proj.weight"]
    yield "ssm_conv1d.weight", mixer["conv1d.weight"].squeeze(1)
    yield "ssm_conv1d.bias", mixer["conv1d.bias"]
    yield "ssm_dt.bias", mixer["dt_bias"]
    yield "ssm_a", -torch.exp(mixer["A_log"].float())[:, None]
    yield "ssm_d", mixer["D"][:, None]
    yield "ssm_norm.weight", mixer["norm.weight"].view(config["n_groups"], -1)
    yield "ssm_out.weight", mixer["out_proj.weight"]


def _attention(config: dict[str, Any], mixer: Weights) -> Iterator[tuple[str, Tensor]]:
    for ours, theirs in (("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_output", "o")):
        yield f"{ours}.weight", mixer[f"{theirs}_proj.weight"]


def _experts(config: dict[str, Any], mixer: Weights) -> Iterator[tuple[str, Tensor]]:
    yield "ffn_gate_inp.weight", mixer["gate.weight"]
    yield "exp_probs_b.bias", mixer["gate.e_score_correction_bias"]
    yield "ffn_latent_down.weight", mixer["fc1_latent_proj.weight"]
    yield "ffn_latent_up.weight", mixer["fc2_latent_proj.weight"]
    for side in ("up", "down"):
        experts = range(config["n_routed_experts"])
        stacked = torch.stack([mixer[f"experts.{e}.{side}_proj.weight"] for e in experts])
        yield f"ffn_{side}_exps.weight", stacked
        yield f"ffn_{side}_shexp.weight", mixer[f"shared_experts.{side}_proj.weight"]
