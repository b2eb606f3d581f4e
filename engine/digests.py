"""What a checkpoint folder holds, and what an engine is told to make of it, as digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.errors import UnsupportedModel
from engine.file_hashes import sha256_of

_COMPUTES_OTHERWISE = (
    "json_model_override_args",
    "quantization",
    "quantization_param_path",
    "modelopt_quant",
    "rl_quant_profile",
)
"""SGLang's arguments that change what the weights in a folder compute, and no dtype of a pool."""


def weights_digest(folder: Path) -> str:
    """SHA-256 over names, sizes and content of the weight files, all of it: an edited row of an
    embedding is another model. Hashes of large files are remembered (`file_hashes`). Raises
    UnsupportedModel for a folder without any: all models would be one."""
    digest = hashlib.sha256()
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise UnsupportedModel(
            f"there are no *.safetensors in {folder}, so this engine's state cannot be told from "
            "that of other models. Nothing was stored. Start the engine with a folder that has "
            "the weights in such files."
        )
    for path, content in zip(paths, sha256_of(paths), strict=True):
        digest.update(f"{path.name}:{path.stat().st_size}:{content};".encode())
    return digest.hexdigest()


def architecture_digest(folder: Path, server_args: Any) -> str:
    """Of the model's config and of SGLang's arguments that change what it computes."""
    digest = hashlib.sha256(files_digest([folder / "config.json"]).encode())
    for name in _COMPUTES_OTHERWISE:
        digest.update(f"{name}={getattr(server_args, name)!r};".encode())
    return digest.hexdigest()


def draft_of(server_args: Any, layers: int) -> str:
    """How an engine speculates that drafts with so many KV pools: `Fingerprint.draft`. Draft KV of
    weights in a folder of their own is of no use to others, so that their digest is a part. Raises
    UnsupportedModel as `weights_digest`."""
    if not layers:
        return "none"
    folder = server_args.speculative_draft_model_path
    if folder is None or Path(folder).resolve() == Path(server_args.model_path).resolve():
        return f"mtp:{layers}"
    config = files_digest([Path(folder) / "config.json"])
    own = hashlib.sha256(f"{weights_digest(Path(folder))}{config}".encode())
    return f"mtp:{layers}:{own.hexdigest()}"


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over names, sizes and content; one that is missing counts as empty."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.exists() else b""
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()
