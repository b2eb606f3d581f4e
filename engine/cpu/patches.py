"""Every change we make to SGLang on a CPU, and the check that each one took effect.

SGLang only logs a plugin or hook that fails, so a server could come up half patched and fail, or
be wrong, at the first request. `apply` therefore looks at every target itself.
"""

from __future__ import annotations

from engine.cpu import (
    attention,
    conv,
    moe,
    platform,
    processes,
    shards,
    ssd,
    ssm_step,
    state_rows,
)
from engine.patch import Patch, register, require

ALL: tuple[Patch, ...] = (
    *conv.PATCHES,
    *ssd.PATCHES,
    *ssm_step.PATCHES,
    *state_rows.PATCHES,
    *moe.PATCHES,
    *attention.PATCHES,
    *platform.PATCHES,
    *shards.PATCHES,
    *processes.PATCHES,
)


def apply() -> None:
    """Put every patch in place in this process.

    Raises:
        PatchError: at least one did not take; the message names each target.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry

    for patch in ALL:
        register(patch)
    # SGLang applies hooks after all plugins have run and swallows what goes wrong. Applying now
    # (targets already patched are skipped later) lets the check below see the result.
    HookRegistry.apply_hooks()
    verify_patches()


def verify_patches() -> None:
    """Raises:
    PatchError: calls to at least one target do not reach our code in this process.
    """
    require(ALL)
