"""The dimensions of a hybrid model, read from the fields of its `config.json`.

Understood are the families whose pools the linker stores: NemotronH, Granite 4 hybrid, Falcon-H1
and Qwen3-Next. Field names and defaults are those of SGLang 0.5.23's config classes
(`sglang/srt/configs/nemotron_h.py`, `granitemoehybrid.py`, `falcon_h1.py`, `qwen3_next.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ImpossiblePlan

_BLOCKS = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}


@dataclass(frozen=True)
class Recurrence:
    """What the layers with a recurrent state keep per session: for each layer an SSM state of
    `heads x head_dim x state_size` values and a convolution window of `conv_kernel - 1` columns."""

    layers: int
    heads: int
    head_dim: int
    state_size: int
    groups: int
    conv_kernel: int

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True)
class Attention:
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Experts:
    """A NemotronH mixture of experts: two matrices per expert, routed ones in the latent width.

    layers: how many layers are of this kind
    active: routed experts that a token goes through
    latent: width that routed experts work in, None if it is the hidden size
    """

    layers: int
    count: int
    active: int
    inner: int
    shared_inner: int
    latent: int | None


@dataclass(frozen=True)
class Blocks:
    """What else a NemotronH model is made of, enough to count its weights.

    mamba_before_attention: Mamba layers that feed an attention layer
    """

    hidden: int
    vocabulary: int
    tied: bool
    experts: Experts
    mlp_layers: int
    mlp_inner: int
    mamba_before_attention: int


@dataclass(frozen=True)
class Architecture:
    """chunk: tokens between which no recurrent state exists; dtype, ssm_dtype: as configured.

    draft_layers: attention layers of the MTP head; 0 without one
    blocks:       None where weights are not counted from dimensions
    """

    family: str
    attention: Attention
    recurrence: Recurrence
    draft_layers: int
    chunk: int
    context: int
    dtype: str
    ssm_dtype: str
    blocks: Blocks | None


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Raises ImpossiblePlan for a family that is not understood or a field that is missing."""
    family = config.get("model_type")
    reader = _READERS.get(str(family))
    if reader is None:
        raise ImpossiblePlan(
            f"models of type {family!r} cannot be planned for; known are {', '.join(_READERS)}."
        )
    if config.get("is_hybrid_swa"):
        raise ImpossiblePlan(
            "models with sliding windows are served, but cannot be planned for: what is counted "
            "here grows with the context, and windows do not."
        )
    try:
        return reader(config)
    except KeyError as error:
        raise ImpossiblePlan(f"the {family} config.json has no field {error}.") from error


def _nemotron_h(config: Mapping[str, Any]) -> Architecture:
    pattern = config.get("hybrid_override_pattern") or "".join(
        _BLOCKS[block] for block in config["layers_block_type"]
    )
    draft = config.get("mtp_hybrid_override_pattern") or "".join(
        _BLOCKS[block] for block in config.get("mtp_layers_block_type") or ("attention", "moe")
    )
    attention = Attention(
        layers=pattern.count("*"),
        query_heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
    )
    recurrence = Recurrence(
        layers=pattern.count("M"),
        heads=config["mamba_num_heads"],
        head_dim=config["mamba_head_dim"],
        state_size=config["ssm_state_size"],
        groups=config["n_groups"],
        conv_kernel=config["conv_kernel"],
    )
    moe = pattern.count("E")
    experts = Experts(
        layers=moe,
        count=config["n_routed_experts"] if moe else 0,
        active=config["num_experts_per_tok"] if moe else 0,
        inner=config["moe_intermediate_size"] if moe else 0,
        shared_inner=(
            config["moe_shared_expert_intermediate_size"] * (config.get("n_shared_experts") or 0)
            if moe
            else 0
        ),
        latent=config.get("moe_latent_size"),
    )
    blocks = Blocks(
        hidden=config["hidden_size"],
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings")),
        experts=experts,
        mlp_layers=pattern.count("-"),
        mlp_inner=config["intermediate_size"] if "-" in pattern else 0,
        mamba_before_attention=pattern.count("M*"),
    )
    heads = int(config.get("num_nextn_predict_layers") or 0)
    chunk = config.get("mamba_chunk_size") or config.get("chunk_size") or 256
    return _architecture(config, attention, recurrence, heads * draft.count("*"), chunk, blocks)


def _granite(config: Mapping[str, Any]) -> Architecture:
    kinds = config["layer_types"]
    recurrent = sum(kind in ("mamba", "linear_attention") for kind in kinds)
    heads, inner = config["mamba_n_heads"], config.get("mamba_expand", 2) * config["hidden_size"]
    recurrence = Recurrence(
        layers=recurrent,
        heads=heads,
        head_dim=inner // heads,
        state_size=config["mamba_d_state"],
        groups=config.get("mamba_n_groups", 1),
        conv_kernel=config.get("mamba_d_conv", 4),
    )
    attention = _plain_attention(config, len(kinds) - recurrent)
    return _architecture(config, attention, recurrence, 0, config.get("mamba_chunk_size", 256))


def _falcon_h1(config: Mapping[str, Any]) -> Architecture:
    layers = config["num_hidden_layers"]  # every one has both
    heads = config["mamba_n_heads"]
    inner = config.get("mamba_d_ssm") or config.get("mamba_expand", 2) * config["hidden_size"]
    recurrence = Recurrence(
        layers=layers,
        heads=heads,
        head_dim=inner // heads,
        state_size=config["mamba_d_state"],
        groups=config.get("mamba_n_groups", 1),
        conv_kernel=config.get("mamba_d_conv", 4),
    )
    attention = _plain_attention(config, layers)
    return _architecture(config, attention, recurrence, 0, config.get("mamba_chunk_size", 256))


def _qwen3_next(config: Mapping[str, Any]) -> Architecture:
    layers = config["num_hidden_layers"]
    full = layers // config.get("full_attention_interval", 4)
    recurrence = Recurrence(
        layers=layers - full,
        heads=config["linear_num_value_heads"],
        head_dim=config["linear_value_head_dim"],
        state_size=config["linear_key_head_dim"],
        groups=config["linear_num_key_heads"],
        conv_kernel=config["linear_conv_kernel_dim"],
    )
    # SGLang: FLA_CHUNK_SIZE, for a config without `mamba_chunk_size`.
    return _architecture(config, _plain_attention(config, full), recurrence, 0, 64)


def _plain_attention(config: Mapping[str, Any], layers: int) -> Attention:
    heads = config["num_attention_heads"]
    return Attention(
        layers=layers,
        query_heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
    )


def _architecture(
    config: Mapping[str, Any],
    attention: Attention,
    recurrence: Recurrence,
    draft_layers: int,
    chunk: int,
    blocks: Blocks | None = None,
) -> Architecture:
    if not attention.layers or not recurrence.layers:
        raise ImpossiblePlan(
            f"the model has {attention.layers} attention layers and {recurrence.layers} recurrent "
            "ones; snapshots need a hybrid, with both."
        )
    return Architecture(
        family=str(config["model_type"]),
        attention=attention,
        recurrence=recurrence,
        draft_layers=draft_layers,
        chunk=int(chunk),
        context=int(config["max_position_embeddings"]),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"),
        # `configs/mamba_utils.py`: float32 unless the config says otherwise.
        ssm_dtype=str(config.get("mamba_ssm_dtype") or "float32"),
        blocks=blocks,
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], Architecture]] = {
    "nemotron_h": _nemotron_h,
    "granitemoehybrid": _granite,
    "falcon_h1": _falcon_h1,
    "qwen3_next": _qwen3_next,
}
