"""Small places where SGLang assumes that a device other than the CPU is there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.patch import Kind, Patch


def pin_memory(tensor: Tensor, device: Any = None) -> Tensor:
    """Host memory is all there is: nothing to pin."""
    return tensor


def mm_out_dtype(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> Tensor:
    """a @ b, [m, k] @ [k, n], computed and returned in `out_dtype`."""
    return torch.mm(a.to(out_dtype), b.to(out_dtype))


def set_embed_and_head(model: Any, embed: torch.nn.Parameter, head: torch.nn.Parameter) -> None:
    """Let the draft model share the target's embedding and output weights."""
    model.model.embed_tokens.weight = embed
    model.lm_head.weight = head


def supports_extra_buffer() -> bool:
    """The state copies it needs are in engine/cpu/state_rows.py."""
    return True


PATCHES = (
    Patch(
        "torch.Tensor.pin_memory",
        Kind.REPLACE,
        pin_memory,
        "ScheduleBatch.prepare_for_decode pins its track mask without asking the platform; torch "
        "raises where there is no accelerator",
    ),
    Patch(
        "aten::mm.dtype",
        Kind.OPERATOR,
        mm_out_dtype,
        "the MoE router calls torch.mm(..., out_dtype=float32), which has CUDA kernels only",
    ),
    Patch(
        "sglang.srt.models.nemotron_h.NemotronHForCausalLM.set_embed_and_head",
        Kind.REPLACE,
        set_embed_and_head,
        "calls torch.cuda.synchronize()",
    ),
    Patch(
        "sglang.srt.arg_groups.mamba_hook._platform_supports_mamba_cache_extra_buffer",
        Kind.REPLACE,
        supports_extra_buffer,
        "names GPU platforms only; without it there are no Mamba states inside a prefix",
    ),
)
