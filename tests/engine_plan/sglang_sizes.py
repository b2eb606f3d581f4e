"""SGLang's own sizes of what a session holds: [config.json, ranks] pairs in, figures and
the number of state slots per running request out.

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
from sglang.srt.mem_cache.allocation_sizing import get_mamba_tracking_slots  # noqa: E402
from sglang.srt.mem_cache.kv_cache_configurator import (  # noqa: E402
    MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO,
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


slots = MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO + get_mamba_tracking_slots(
    extra_buffer=True, overlap=True
)
figures = [sizes(config, ranks) for config, ranks in json.load(sys.stdin)]
print(json.dumps({"sizes": figures, "slots": slots}))
