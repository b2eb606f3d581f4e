"""SGLang's door to us: entry point ``sglang.srt.plugins``, run in each of its processes."""

import os


def register() -> None:
    """Hook the linker into the cache tree and, if SGLang is told to run on a CPU, apply the CPU
    patches.

    Raises:
        SystemExit: they could not all be applied. SGLang logs an ``Exception`` from a plugin and
            carries on unpatched; only this ends the process, scheduler processes included.
    """
    try:
        from engine import patch
        from engine.linker import patches

        for hook in patches.ALL:
            patch.register(hook)
        if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
            from engine.cpu.patches import apply

            apply()
    except Exception as error:
        raise SystemExit(f"torpor: {type(error).__name__}: {error}") from error
