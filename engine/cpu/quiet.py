"""What SGLang says at every start on a CPU and nobody can act on.

Twenty lines per process bury the ones that matter. Only these exact messages are dropped.
"""

from __future__ import annotations

import logging
import warnings

_WARNINGS = (
    "Triton is not supported on current platform",
    "Only CUDA, HIP and XPU support AWQ",
    "Only CUDA, MUSA and NPU support GGUF",
)
_MODEL_REGISTRY = "sglang.srt.models.registry"


def install() -> None:
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    registry = logging.getLogger(_MODEL_REGISTRY)
    if _of_another_model not in registry.filters:
        registry.addFilter(_of_another_model)


def _of_another_model(record: logging.LogRecord) -> bool:
    """Keep a record unless it says that a model we do not serve cannot be imported here."""
    message = record.getMessage()
    return not message.startswith("Ignore import error") or "nemotron_h" in message
