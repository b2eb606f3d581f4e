"""Every change we make to SGLang on a GPU or a CPU: for the linker, for routers and load, for
weights, and for grammars."""

from __future__ import annotations

from engine import grammars
from engine.linker import (
    branches,
    failures,
    loads,
    offers,
    progress,
    restored,
    room,
    routed,
    salts,
    steps,
    thinning,
    weights,
)
from engine.patch import Patch

ALL: tuple[Patch, ...] = (
    *offers.PATCHES,
    *branches.PATCHES,
    *failures.PATCHES,
    *steps.PATCHES,
    *progress.PATCHES,
    *restored.PATCHES,
    *salts.PATCHES,
    *thinning.PATCHES,
    *room.PATCHES,
    *routed.PATCHES,
    *loads.PATCHES,
    *weights.PATCHES,
    *grammars.PATCHES,
)
