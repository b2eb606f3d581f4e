"""SGLang's own sizes of what a session holds: [config.json, ranks] pairs in, figures out.

A process of its own, since SGLang needs stand-ins for what it imports and cannot have on a CPU.
"""

import json
import sys
from types import SimpleNamespace

from engine.cpu import imports, quiet

quiet.install()
imports.install()

from sglang.srt.configs import (  # noqa: E402
    falcon_h1,
    granitemoehybrid,
    mamba_utils,
    nemotron_h,
    qwen3_next,
)

CLASSES = {
    "nemotron_h": (nemotron_h, "NemotronHConfig"),
    "granitemoehybrid": (granitemoehybrid, "GraniteMoeHybridConfig"),
    "falcon_h1": (falcon_h1, "FalconH1Config"),
    "qwen3_next": (qwen3_next, "Qwen3NextConfig"),
}


def sizes(config, ranks):
    module, name = CLASSES[config["model_type"]]
    for place in (module, mamba_utils):
        place.get_parallel = lambda: SimpleNamespace(attn_tp_size=ranks)
    module.linear_attn_tp_size = lambda: ranks
    module._is_cpu = False  # a CPU pads heads; GPUs do not
    made = getattr(module, name)(**config)
    return {
        "state": made.mamba2_cache_params.mamba_cache_per_req,
        "recurrent_layers": len(made.mamba2_cache_params.layers),
        "attention_layers": len(made.full_attention_layer_ids),
    }


print(json.dumps([sizes(config, ranks) for config, ranks in json.load(sys.stdin)]))
