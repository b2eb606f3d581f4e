"""What a checkpoint folder holds, and what an engine is told to make of it, as digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_WHOLE_FILE = 64 << 20  # bytes; of a larger weight file, each tensor is sampled
_WHOLE_TENSOR = 64 << 10  # bytes: norms, biases, time steps and the like
_SAMPLES, _SAMPLE_BYTES = 4, 4096
_COMPUTES_OTHERWISE = (
    "json_model_override_args",
    "quantization",
    "quantization_param_path",
    "modelopt_quant",
    "rl_quant_profile",
)
"""SGLang's arguments that change what the weights in a folder compute, and no dtype of a pool."""


def weights_digest(folder: Path) -> str:
    """SHA-256 over names, sizes and content of the weight files.

    Of a file over 64 MiB, its header is read (names, shapes, places), tensors of up to 64 KiB, and
    4 KiB at four places of each larger one: so that another value anywhere in a small tensor, or
    training, merging or rounding of a large one, is another digest, and a terabyte is not read at
    each start. Raises ValueError for a large file that is not safetensors.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE:
                digest.update(file.read())
            else:
                _sample(digest, file.fileno())
    return digest.hexdigest()


def architecture_digest(folder: Path, server_args: Any) -> str:
    """Of the model's config and of SGLang's arguments that change what it computes."""
    digest = hashlib.sha256(files_digest([folder / "config.json"]).encode())
    for name in _COMPUTES_OTHERWISE:
        digest.update(f"{name}={getattr(server_args, name)!r};".encode())
    return digest.hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over names, sizes and content; one that is missing counts as empty."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.exists() else b""
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def _sample(digest: Any, file: int) -> None:
    """Format: https://github.com/huggingface/safetensors#format"""
    header_bytes = int.from_bytes(os.pread(file, 8, 0), "little")
    header = os.pread(file, header_bytes, 8)
    digest.update(header)
    tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
    for start, end in sorted(tuple(entry["data_offsets"]) for entry in tensors):
        first, size = 8 + header_bytes + start, end - start
        if size <= _WHOLE_TENSOR:
            digest.update(os.pread(file, size, first))
            continue
        for sample in range(_SAMPLES):
            at = (size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1)
            digest.update(os.pread(file, _SAMPLE_BYTES, first + at))
