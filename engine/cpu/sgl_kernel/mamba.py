"""Names that SGLang's other linear-attention backends import; never called for Nemotron-H."""

from typing import Any, NoReturn


def causal_conv1d_fn_cpu(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError("gated delta networks are not supported by this CPU engine")


causal_conv1d_update_cpu = causal_conv1d_fn_cpu
chunk_gated_delta_rule_cpu = causal_conv1d_fn_cpu
