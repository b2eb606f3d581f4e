"""Stand-in for the ``sgl_kernel`` package, imported under that name (engine/cpu/imports.py).

With SGLANG_USE_CPU_ENGINE=1 SGLang imports these names at module level. The real CPU wheel needs
AVX-512 and AMX and is not published; where it is installed it wins and this is never imported.
It must not offer ``convert_weight_packed``: that is how SGLang decides it may pack weights for AMX.
"""

from typing import Any, NoReturn

import torch

from engine.cpu.attention import (
    build_draft_decode_metadata_cpu,
    decode_attention_cpu,
    extend_attention_cpu,
)
from engine.cpu.slots import (
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    copy_all_layer_kv_cache_cpu,
    fill_accept_out_cache_loc_cpu,
    fill_bonus_tokens_cpu,
    rotate_input_ids_cpu,
)
from engine.cpu.tree import build_tree_kernel_efficient_cpu, verify_tree_greedy_cpu


def _other_architectures(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError("gated delta networks are not supported by this CPU engine")


# SGLang reaches these through torch.ops. Plain attributes spare a dispatcher round trip per layer.
vars(torch.ops.sgl_kernel).update(
    decode_attention_cpu=decode_attention_cpu,
    extend_attention_cpu=extend_attention_cpu,
    # Looked up when the hybrid backends are imported, called for other architectures only.
    fused_gdn_gating_cpu=_other_architectures,
    fused_sigmoid_gating_delta_rule_update_cpu=_other_architectures,
)

__all__ = [
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_draft_decode_metadata_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "rotate_input_ids_cpu",
    "verify_tree_greedy_cpu",
]
