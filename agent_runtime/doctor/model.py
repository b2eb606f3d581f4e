"""A checkpoint directory: config, tokenizer, chat template, and weight files to their last byte."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from agent_runtime.doctor.findings import Finding, fail, ok, warn
from engine.errors import ImpossiblePlan
from engine.plan.architecture import Architecture, read_architecture
from engine.profiles import PROFILES

_INDEX = "model.safetensors.index.json"
_AGAIN = "download the checkpoint again, or make the demo model: make model"
_LARGEST_HEADER = 100 << 20  # bytes, the format's own limit


def examine(folder: Path | None) -> Iterator[Finding]:
    """folder: None for the demo profile's model."""
    folder = folder or PROFILES["demo"].model
    assert folder is not None
    if not folder.is_dir():
        yield fail(
            "model",
            f"{folder} is not a directory",
            why="the engine serves it, and the runtime reads its tokenizer",
            fix="point --model at a checkpoint directory, or make the demo model: make model",
        )
        return
    architecture: Architecture | None = None
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        architecture = read_architecture(config)
    except (OSError, ValueError) as error:
        yield fail("model config", str(error), why="nothing can be loaded", fix=_AGAIN)
    except ImpossiblePlan as error:
        yield warn(
            "model config",
            str(error),
            why="snapshots hold what hybrids with recurrent layers or sliding windows remember",
            fix="start an engine: it ends at once if it cannot store this model's state; then use "
            "a hybrid, or a stateless backend for this model",
        )
    else:
        yield ok("model config", f"{folder}: {_described(architecture)}")
    yield tokenizer(folder)
    yield chat_template(folder)
    yield from weights(folder, architecture)


def tokenizer(folder: Path) -> Finding:
    path = folder / "tokenizer.json"
    try:
        loaded = Tokenizer.from_str(path.read_text("utf-8"))
    except Exception as error:  # the tokenizers library raises plain Exceptions
        return fail(
            "model tokenizer",
            f"{path.name}: {error}",
            why="the runtime turns messages into token ids with it",
            fix=_AGAIN,
        )
    return ok("model tokenizer", f"{loaded.get_vocab_size()} tokens")


def chat_template(folder: Path) -> Finding:
    if (folder / "chat_template.jinja").is_file():
        return ok("chat template", "chat_template.jinja")
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        config = {}
    if config.get("chat_template"):
        return ok("chat template", "in tokenizer_config.json")
    return fail(
        "chat template",
        "none",
        why="the runtime cannot render messages for this model",
        fix="use an instruction-tuned checkpoint, or add its chat_template.jinja",
    )


def weights(folder: Path, architecture: Architecture | None) -> Iterator[Finding]:
    """Every file that the index names is there, readable and as long as its header says."""
    try:
        names = _expected(folder)
    except (OSError, ValueError, KeyError) as error:
        yield fail("model weights", f"{_INDEX}: {error}", why="files cannot be found", fix=_AGAIN)
        return
    problems: list[str] = []
    tensors: set[str] = set()
    size = 0
    for name in names:
        try:
            found, length = _read_header(folder / name)
        except (OSError, ValueError) as error:
            problems.append(f"{name}: {error}")
            continue
        tensors |= found
        size += length
    if not names:
        problems.append("no *.safetensors file")
    if problems:
        shown = "; ".join(problems[:3]) + ("" if len(problems) < 4 else f"; {len(problems)} in all")
        why = "the engine would end while loading, or load noise"
        yield fail("model weights", shown, why=why, fix=_AGAIN)
        return
    yield ok("model weights", f"{len(names)} files, {size / (1 << 20):.1f} MiB, all complete")
    has_head = any(name.startswith("mtp.") or ".mtp." in name for name in tensors)
    if architecture is not None and architecture.draft_layers and not has_head:
        yield warn(
            "model MTP head",
            "config.json declares one, the files have none",
            why="speculation would draft from random weights, or the engine would not start",
            fix="start with --no-mtp, or use the complete checkpoint",
        )


def _expected(folder: Path) -> list[str]:
    index = folder / _INDEX
    if index.exists():
        return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    return sorted(path.name for path in folder.glob("*.safetensors"))


def _read_header(path: Path) -> tuple[set[str], int]:
    """Names of the tensors and length of a file. Raises OSError, ValueError."""
    if not path.exists():
        raise ValueError("missing")
    if not os.access(path, os.R_OK):
        raise ValueError("not readable")
    length = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if not 0 < header_bytes <= min(_LARGEST_HEADER, length):
            raise ValueError("not a safetensors file (a pointer left by git-lfs?)")
        header: dict[str, Any] = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    end = 8 + header_bytes + max(entry["data_offsets"][1] for entry in header.values())
    if length != end:
        raise ValueError(f"{length} bytes long, its header says {end}")
    return set(header), length


def _described(architecture: Architecture) -> str:
    kinds = (
        f"{architecture.recurrence.layers} recurrent and {architecture.attention.layers} "
        f"attention layers"
    )
    return f"{architecture.family}, {kinds}{', MTP' if architecture.draft_layers else ''}"
