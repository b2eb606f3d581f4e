"""SGLang's door to us: entry point ``sglang.srt.plugins``, run in each of its processes."""

import os


def register() -> None:
    """Apply the CPU patches if SGLang is told to run on a CPU; otherwise do nothing.

    Raises:
        SystemExit: they could not all be applied. SGLang logs an ``Exception`` from a plugin and
            carries on unpatched; only this ends the process, scheduler processes included.
    """
    if os.environ.get("SGLANG_USE_CPU_ENGINE") != "1":
        return
    try:
        from engine.cpu import patches

        patches.apply()
    except Exception as error:
        raise SystemExit(f"torpor: {type(error).__name__}: {error}") from error
