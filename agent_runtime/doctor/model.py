"""A checkpoint directory: config, tokenizer, chat template, and weight files to their last byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from agent_runtime.doctor.findings import Finding, fail, ok, warn
from engine.checkpoint import INDEX, read_weights
from engine.errors import ImpossiblePlan
from engine.plan.architecture import Architecture, read_architecture
from engine.profiles import PROFILES

_MAKE = "run `make model` in Torpor's repository, which makes the demo model"
_AGAIN = f"download the checkpoint again, or {_MAKE}"


def examine(folder: Path | None) -> Iterator[Finding]:
    """folder: None for the demo profile's model."""
    folder = folder or PROFILES["demo"].model
    assert folder is not None
    if not folder.is_dir():
        yield fail(
            "model",
            f"{folder} is not a directory",
            why="the engine serves it, and the runtime reads its tokenizer",
            fix=f"point --model at a checkpoint directory, or {_MAKE}",
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
    yield from weight_files(folder, architecture)


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


def weight_files(folder: Path, architecture: Architecture | None) -> Iterator[Finding]:
    """Every file that the index names is there, readable and as long as its header says."""
    try:
        weights = read_weights(folder)
    except (OSError, ValueError, KeyError) as error:
        yield fail("model weights", f"{INDEX}: {error}", why="files cannot be found", fix=_AGAIN)
        return
    problems = weights.problems if weights.files else ("no *.safetensors file",)
    if problems:
        shown = "; ".join(problems[:3]) + ("" if len(problems) < 4 else f"; {len(problems)} in all")
        why = "the engine would not start, or load noise"
        yield fail("model weights", shown, why=why, fix=_AGAIN)
        return
    size = weights.size / (1 << 20)
    yield ok("model weights", f"{len(weights.files)} files, {size:.1f} MiB, all complete")
    has_head = any(name.startswith("mtp.") or ".mtp." in name for name in weights.tensors)
    if architecture is not None and architecture.draft_layers and not has_head:
        yield warn(
            "model MTP head",
            "config.json declares one, the files have none",
            why="speculation would draft from random weights, or the engine would not start",
            fix="start with --no-mtp, or use the complete checkpoint",
        )


def _described(architecture: Architecture) -> str:
    kinds = (
        f"{architecture.recurrence.layers} recurrent and {architecture.attention.layers} "
        f"attention layers"
    )
    return f"{architecture.family}, {kinds}{', MTP' if architecture.draft_layers else ''}"
