"""What can be wrong with a machine, an installation, a store or a model, and how to fix it.

Nothing is changed: without a Redis URL an embedded server runs in a temporary directory for a
moment, and SGLang is imported in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent_runtime.doctor import installation, machine, model, store
from agent_runtime.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]


def examine(*, redis_url: str | None, model_dir: Path | None, data: Path) -> Iterator[Finding]:
    """Findings, one by one as they are made.

    redis_url: the store; None for the embedded one
    model_dir: a checkpoint directory; None for the one of the demo profile
    data:      where `torpor up` keeps its files
    """
    yield from machine.examine(data)
    yield from installation.examine()
    yield from store.examine(redis_url)
    yield from model.examine(model_dir)
