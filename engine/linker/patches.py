"""Every change we make to SGLang for the linker, on a GPU or a CPU."""

from __future__ import annotations

from engine.linker import branches, failures, offers, steps
from engine.patch import Patch

ALL: tuple[Patch, ...] = (*offers.PATCHES, *branches.PATCHES, *failures.PATCHES, *steps.PATCHES)
