"""Whether the installed SGLang is the one this code was written for, and takes our changes.

`check()` runs this module in a process of its own: SGLang is slow to import, and patching it must
not touch the caller.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import dataclass

SGLANG = "0.5.23"
"""The release that every patch and the linker were written and tested against."""
_ENTRY_POINTS = "sglang.srt.plugins"
_TIMEOUT = 300.0  # seconds; a cold import reads a gigabyte


@dataclass(frozen=True)
class Change:
    """One change to SGLang: where, what for, and whether calls reach our code."""

    target: str
    reason: str
    in_place: bool


@dataclass(frozen=True)
class EngineCheck:
    """version: of the installed SGLang, None without one; errors: what went wrong on the way;
    plugin: whether SGLang will find our plugin; changes: those for this kind of device."""

    version: str | None
    plugin: bool
    changes: tuple[Change, ...]
    errors: tuple[str, ...]


def check(*, cpu: bool, timeout: float = _TIMEOUT) -> EngineCheck:
    """cpu: whether the engine is to run on a CPU; timeout: seconds for SGLang's import."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("SGLANG_USE_CPU_ENGINE", None)
    if cpu:
        environment |= {"SGLANG_USE_CPU_ENGINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    version = installed()
    nothing = EngineCheck(version, _plugin_is_found(), (), ())
    if version is None:
        return nothing
    try:
        done = subprocess.run(
            [sys.executable, "-m", "engine.self_check"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return _with_error(nothing, f"SGLang did not import in {timeout:g} s")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return _with_error(nothing, f"importing SGLang ended with {done.returncode}: {last}")
    return EngineCheck(
        version,
        nothing.plugin,
        tuple(Change(**change) for change in answer["changes"]),
        tuple(answer["errors"]),
    )


def installed() -> str | None:
    """Version of the installed SGLang."""
    try:
        return importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return None


def _with_error(before: EngineCheck, error: str) -> EngineCheck:
    return EngineCheck(before.version, before.plugin, before.changes, (error,))


def _plugin_is_found() -> bool:
    """SGLang loads the plugins that are installed, or those that SGLANG_PLUGINS names."""
    allowed = os.environ.get("SGLANG_PLUGINS")
    if allowed and "torpor" not in [name.strip() for name in allowed.split(",")]:
        return False
    return "torpor" in importlib.metadata.entry_points(group=_ENTRY_POINTS).names


def _examine() -> dict[str, object]:
    """Apply every change in this process and look at the live objects."""
    from engine import patch
    from engine.cpu import imports, quiet

    if imports.wanted():
        quiet.install()
        imports.install()
    errors: list[str] = []
    wanted: list[patch.Patch] = []
    try:
        from engine.linker import linker
        from engine.linker.patches import ALL

        assert linker.TorporLinker is not None
        wanted += ALL
    except Exception as error:
        errors.append(f"the linker cannot be loaded: {type(error).__name__}: {error}")
    if imports.wanted():
        from engine.cpu import patches

        wanted += patches.ALL
    for one in wanted:
        try:
            patch.register(one)
        except Exception as error:
            errors.append(f"{one.target}: {type(error).__name__}: {error}")
    from sglang.srt.plugins.hook_registry import HookRegistry

    HookRegistry.apply_hooks()
    changes = [
        {"target": one.target, "reason": one.reason, "in_place": patch.in_place(one)}
        for one in wanted
    ]
    return {"changes": changes, "errors": errors}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_examine()) + "\n")
