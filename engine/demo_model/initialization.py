"""The weights that training starts from."""

from __future__ import annotations

import math

import torch
from torch import nn

from engine.demo_model.network import Attention, Mamba, Network


def initialize(network: Network) -> None:
    """Random weights that make copying and long memory easy to find; uses torch's global seed.

    Keys and queries start alike, and outputs undo values, so that attention begins by finding
    equal tokens and copying what it finds. Half of the Mamba heads begin with a short memory and
    half with a very long one, some of which can still be emptied by a large time step.
    """
    shape = network.shape
    residual = 1 / math.sqrt(len(shape.pattern))
    outputs = ("out_proj", "o_proj", "down_proj", "fc2_latent_proj")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 2 and "gate" not in name:
                scale = residual if any(output in name for output in outputs) else 1.0
                nn.init.normal_(parameter, std=scale * parameter.shape[1] ** -0.5)
        nn.init.normal_(network.model.embeddings.weight, std=shape.hidden_size**-0.5)
        network.lm_head.weight.copy_(network.model.embeddings.weight)
        for module in network.modules():
            if isinstance(module, Attention):
                _initialize_attention(module)
            if isinstance(module, Mamba):
                _initialize_memory(module)


def _initialize_attention(attention: Attention) -> None:
    shape = attention.shape
    repeats = shape.num_attention_heads // shape.num_key_value_heads
    for projection in (attention.k_proj, attention.v_proj):
        nn.init.orthogonal_(projection.weight)
    spread = [
        torch.unflatten(projection.weight, 0, (-1, shape.head_dim)).repeat_interleave(repeats, 0)
        for projection in (attention.k_proj, attention.v_proj)
    ]
    key, value = (weight.flatten(0, 1) for weight in spread)
    attention.q_proj.weight.copy_(2 * key + 0.02 * torch.randn_like(key))
    attention.o_proj.weight.copy_(value.t() / repeats + 0.02 * torch.randn_like(value.t()))


def _initialize_memory(mamba: Mamba) -> None:
    heads = mamba.shape.mamba_num_heads
    each = heads // 4
    # Time step and decay rate per head: quick, slow, erasable long memory, plain counters.
    steps = torch.tensor([0.1, 0.01, 0.001, 0.01]).repeat(each)
    rates = torch.tensor([4.0, 1.0, 0.1, 0.0001]).repeat(each)
    mamba.dt_bias.copy_(steps + torch.log(-torch.expm1(-steps)))
    mamba.A_log.copy_(torch.log(rates))
