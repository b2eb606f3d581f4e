"""The shape of the demo model, and its config in Hugging Face format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """Sizes of a Nemotron-H hybrid; the names follow `NemotronHConfig`."""

    vocab_size: int = 1024
    hidden_size: int = 128
    pattern: str = "MEM*EMEM*E"
    mtp_pattern: str = "*E"
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    mamba_num_heads: int = 8
    mamba_head_dim: int = 32
    ssm_state_size: int = 32
    n_groups: int = 2
    conv_kernel: int = 4
    chunk_size: int = 64
    n_routed_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 64
    moe_latent_size: int = 32
    moe_shared_expert_intermediate_size: int = 256
    routed_scaling_factor: float = 2.5
    layer_norm_epsilon: float = 1e-5

    @property
    def mamba_width(self) -> int:
        """Channels of a Mamba layer: heads times head size."""
        return self.mamba_num_heads * self.mamba_head_dim

    @property
    def conv_width(self) -> int:
        """Channels that go through the short convolution: x, B and C."""
        return self.mamba_width + 2 * self.n_groups * self.ssm_state_size

    def to_config(
        self, *, pad_token_id: int, bos_token_id: int, eos_token_id: int
    ) -> dict[str, Any]:
        """The contents of `config.json`, as transformers and SGLang read it."""
        return {
            "architectures": ["NemotronHForCausalLM"],
            "model_type": "nemotron_h",
            "dtype": "float32",
            "torch_dtype": "float32",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.moe_shared_expert_intermediate_size,
            "hybrid_override_pattern": self.pattern,
            "num_hidden_layers": len(self.pattern),
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": 1048576,
            "mamba_num_heads": self.mamba_num_heads,
            "mamba_head_dim": self.mamba_head_dim,
            "n_groups": self.n_groups,
            "mamba_n_groups": self.n_groups,
            "ssm_state_size": self.ssm_state_size,
            "conv_kernel": self.conv_kernel,
            "mamba_d_conv": self.conv_kernel,
            "chunk_size": self.chunk_size,
            "expand": 2,
            "mamba_hidden_act": "silu",
            "mlp_hidden_act": "relu2",
            "use_conv_bias": True,
            "mamba_conv_bias": True,
            "use_bias": False,
            "mlp_bias": False,
            "attention_bias": False,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "n_routed_experts": self.n_routed_experts,
            "num_experts_per_tok": self.num_experts_per_tok,
            "moe_intermediate_size": self.moe_intermediate_size,
            "n_shared_experts": 1,
            "moe_shared_expert_intermediate_size": self.moe_shared_expert_intermediate_size,
            "moe_latent_size": self.moe_latent_size,
            "routed_scaling_factor": self.routed_scaling_factor,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
            "num_nextn_predict_layers": 1,
            "mtp_hybrid_override_pattern": self.mtp_pattern,
            "residual_in_fp32": False,
            "tie_word_embeddings": False,
            "time_step_min": 0.0,
            "time_step_limit": [0.0, 1e9],
            "mamba_ssm_cache_dtype": "float32",
            "mamba_ssm_dtype": "float32",
            "pad_token_id": pad_token_id,
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
        }
