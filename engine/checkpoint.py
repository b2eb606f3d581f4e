"""The weight files of a checkpoint directory: whether they are all there, to their last byte.

Nothing but their headers is read, so that a copy that was cut short is told before an engine takes
minutes to find out.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
_LARGEST_HEADER = 100 << 20  # bytes, the format's own limit


@dataclass(frozen=True)
class Weights:
    """files: that the index names, or all there are; tensors: in those that are whole; size: bytes
    of those; problems: of the others, one each"""

    files: tuple[str, ...]
    tensors: frozenset[str]
    size: int
    problems: tuple[str, ...]


def read_weights(folder: Path) -> Weights:
    """Raises OSError, ValueError and KeyError for an index that cannot be used."""
    files = _expected(folder)
    tensors: set[str] = set()
    problems = []
    size = 0
    for name in files:
        try:
            found, length = _read_header(folder / name)
        except (OSError, ValueError) as error:
            problems.append(f"{name}: {error}")
        else:
            tensors |= found
            size += length
    return Weights(tuple(files), frozenset(tensors), size, tuple(problems))


def _expected(folder: Path) -> list[str]:
    index = folder / INDEX
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
