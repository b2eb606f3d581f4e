"""Tiny checkpoints of random weights: other hybrids that SGLang serves through the same pools."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from engine_cpu.server import MODEL

_SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_chunk_size": 64,
    "max_position_embeddings": 8192,
    "torch_dtype": "float32",
}
_KEPT = ("A_log", "dt_bias", ".D", "conv1d.bias")


def falcon_h1() -> Any:
    """Attention and Mamba side by side in every layer, no experts, a multiplier at every turn."""
    from transformers import FalconH1Config, FalconH1ForCausalLM

    return FalconH1ForCausalLM(
        FalconH1Config(
            **_SIZES,
            num_hidden_layers=3,
            intermediate_size=128,
            head_dim=16,
            mamba_d_ssm=128,
            mamba_n_groups=1,
            embedding_multiplier=1.7,
            lm_head_multiplier=0.6,
            key_multiplier=0.5,
            attention_in_multiplier=1.1,
            attention_out_multiplier=0.8,
            ssm_in_multiplier=1.25,
            ssm_out_multiplier=0.7,
            ssm_multipliers=[0.9, 1.2, 0.7, 1.3, 0.8],
            mlp_multipliers=[0.8, 0.6],
        )
    )


def falcon_h1_of_two_groups() -> Any:
    """As above, with heads in two groups and longer chunks."""
    model = falcon_h1()
    model.config.update({"mamba_n_groups": 2, "mamba_chunk_size": 256})
    return type(model)(model.config)


def granite_4() -> Any:
    """Layers of Mamba or of attention without positions, gated experts beside a shared one."""
    from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

    return GraniteMoeHybridForCausalLM(
        GraniteMoeHybridConfig(
            **_SIZES,
            num_hidden_layers=4,
            layer_types=["mamba", "attention", "mamba", "mamba"],
            intermediate_size=48,
            shared_intermediate_size=96,
            num_local_experts=4,
            num_experts_per_tok=2,
            mamba_n_groups=1,
            position_embedding_type=None,
            embedding_multiplier=6.0,
            logits_scaling=3.0,
            residual_multiplier=0.4,
            attention_multiplier=0.2,
        )
    )


WINDOW = 100  # tokens that a layer with a window sees, less one in Nemotron-H


def mellum() -> Any:
    """Attention only, in most layers over a sliding window; experts in every other layer."""
    from transformers import MellumConfig, MellumForCausalLM

    rope = {"rope_type": "default", "rope_theta": 1000.0}
    return MellumForCausalLM(
        MellumConfig(
            **{name: size for name, size in _SIZES.items() if not name.startswith("mamba_")},
            num_hidden_layers=4,
            head_dim=16,
            intermediate_size=128,
            moe_intermediate_size=32,
            num_experts=4,
            num_experts_per_tok=2,
            layer_types=["sliding_attention", "full_attention"] + ["sliding_attention"] * 2,
            mlp_layer_types=["dense", "sparse"] * 2,
            sliding_window=WINDOW,
            rope_parameters={"sliding_attention": rope, "full_attention": rope},
        )
    )


def nemotron_h_with_windows() -> Any:
    """Mamba layers beside attention over sliding windows.

    Published ones have no windows. SGLang serves one if its configuration asks for them; it then
    windows every attention layer, also the one whose KV it keeps from the beginning.
    """
    from transformers import NemotronHConfig, NemotronHForCausalLM

    given = _windowed_nemotron_h()
    for name in ("architectures", "model_type", "num_hidden_layers", "time_step_min"):
        del given[name]
    model = NemotronHForCausalLM(NemotronHConfig(**given | {"sliding_window": WINDOW + 1}))
    for layer in model.model.layers:
        if hasattr(layer.mixer, "time_step_limit"):
            layer.mixer.time_step_limit = (0.0, float("inf"))  # see engine_cpu's oracle
    return model


def _windowed_nemotron_h() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((MODEL / "config.json").read_text())
    del config["num_nextn_predict_layers"], config["mtp_hybrid_override_pattern"]
    # Attention comes first: SGLang's CPU backend asks the pool of windows for layer 0.
    pattern = "*EMM*EM"
    return config | {
        "vocab_size": _SIZES["vocab_size"],
        "num_hidden_layers": len(pattern),
        "hybrid_override_pattern": pattern,
        "sliding_window": WINDOW,
        "is_hybrid_swa": True,
        "hybrid_layer_pattern": [1, 2, 2, 2, 0, 2, 2],  # windows, not attention, whole contexts
    }


class RandomModel:
    """A checkpoint on disk, and transformers' own reading of it."""

    def __init__(self, make: Callable[[], Any], folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model = make().eval()
            rng = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for name, weight in self._model.named_parameters():
                    if name.endswith(_KEPT):
                        continue
                    noise = torch.randn(weight.shape, generator=rng)
                    scale = weight.shape[-1] ** -0.5
                    weight.copy_(1 + 0.1 * noise if "norm" in name else noise * scale)
            self._model.save_pretrained(folder)
        self.folder = folder

    def logprobs(self, tokens: Sequence[int]) -> torch.Tensor:
        """float32[len(tokens), vocabulary]: of the next token after each prefix."""
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            logits = self._model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
        return logits.float().log_softmax(-1)


class WindowedNemotronH(RandomModel):
    """transformers has no windows for it; its mask is replaced."""

    def __init__(self, folder: Path) -> None:
        super().__init__(nemotron_h_with_windows, folder)
        (folder / "config.json").write_text(json.dumps(_windowed_nemotron_h()))

    def logprobs(self, tokens: Sequence[int]) -> torch.Tensor:
        from transformers.masking_utils import create_sliding_window_causal_mask
        from transformers.models.nemotron_h import modeling_nemotron_h as modeling

        whole = modeling.create_causal_mask
        modeling.create_causal_mask = create_sliding_window_causal_mask
        try:
            return super().logprobs(tokens)
        finally:
            modeling.create_causal_mask = whole
