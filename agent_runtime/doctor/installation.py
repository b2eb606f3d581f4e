"""The installation: SGLang, our plugin in it, and what both change in it."""

from __future__ import annotations

from collections.abc import Iterator

from agent_runtime.doctor.findings import Finding, fail, ok, warn
from engine.self_check import SGLANG, EngineCheck, check

_REINSTALL = f"install sglang=={SGLANG}: scripts/setup.sh, or pip install 'torpor[gpu]' for GPUs"


def examine() -> Iterator[Finding]:
    import torch

    yield ok("torch", f"{torch.__version__} ({_torch_build()})")
    yield from sglang(check(cpu=not torch.cuda.is_available()))


def sglang(seen: EngineCheck) -> Iterator[Finding]:
    if seen.version is None:
        yield fail("sglang", "not installed", why="it is the engine", fix=_REINSTALL)
        return
    if seen.version != SGLANG:
        yield warn(
            "sglang",
            seen.version,
            why=f"everything was written and tested against {SGLANG}; other releases may differ "
            "in what we rely on without an error",
            fix=_REINSTALL,
        )
    else:
        yield ok("sglang", seen.version)
    if not seen.plugin:
        yield fail(
            "plugin",
            "SGLang will not load the plugin 'torpor'",
            why="no state would be stored",
            fix="pip install --editable . (or unset SGLANG_PLUGINS, or name torpor in it)",
        )
    else:
        yield ok("plugin", "found by SGLang")
    for error in seen.errors:
        yield fail("sglang", error, why="the engine would not start", fix=_REINSTALL)
    missing = [change for change in seen.changes if not change.in_place]
    for change in missing:
        yield fail(
            "patch",
            f"{change.target} does not reach our code",
            why=change.reason,
            fix=_REINSTALL,
        )
    if seen.changes and not missing:
        yield ok("patches", f"all {len(seen.changes)} symbols of SGLang reach our code")


def _torch_build() -> str:
    import torch

    if torch.version.cuda is not None:
        return f"CUDA {torch.version.cuda}"
    if torch.version.hip is not None:
        return f"ROCm {torch.version.hip}"
    return "CPU"
