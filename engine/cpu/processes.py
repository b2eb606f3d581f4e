"""The ranks of an engine on a CPU are forked from its server.

SGLang spawns them: a process that has touched a GPU cannot be forked. A spawned one imports torch
and SGLang for itself, which is most of what a start on a CPU takes. A forked one has them, with
every patch in place, and shares their memory.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from engine.patch import Kind, Patch


def _fork(original: Callable[..., None], server_args: Any) -> None:
    original(server_args)
    multiprocessing.set_start_method("fork", force=True)


PATCHES = (
    Patch(
        "sglang.srt.entrypoints.engine._set_envs_and_config",
        Kind.AROUND,
        _fork,
        "it has SGLang's other processes spawned; without a GPU they can be forked, and start in "
        "half the time",
    ),
)
