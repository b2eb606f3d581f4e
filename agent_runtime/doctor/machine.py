"""The machine: Python, compilers, GPUs, memory, disk, file descriptors."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import psutil

from agent_runtime.doctor.findings import Finding, fail, ok, warn
from tools.sandbox import Support, check

_GIB = 1 << 30
_OLDEST_PYTHON = (3, 11)
_LITTLE_MEMORY, _NO_MEMORY = 4 * _GIB, 1 * _GIB
_LITTLE_DISK, _NO_DISK = 5 * _GIB, 1 * _GIB
_FEW_FILES, _TOO_FEW_FILES = 4096, 1024


def examine(data: Path) -> Iterator[Finding]:
    """data: the directory for the embedded store, logs and compiled helpers."""
    yield python()
    yield from compilers()
    yield gpus()
    yield memory(psutil.virtual_memory().available, psutil.virtual_memory().total)
    yield disk(data)
    yield open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield sandbox(check())


def python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return fail(
            "python",
            found,
            why="the code needs Python 3.11 or later",
            fix="install it and make the environment anew: PYTHON=python3.11 scripts/setup.sh",
        )
    if platform.system() != "Linux":
        return warn(
            "python",
            f"{found} on {platform.system()}",
            why="only Linux was tested; SGLang's processes rely on it",
            fix="run in a Linux container or virtual machine",
        )
    return ok("python", found)


def compilers() -> Iterator[Finding]:
    """SGLang compiles its page-hash function at the first start, with what is looked for here."""
    why = "SGLang compiles its page-hash function at the first start and ends without it"
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        yield fail("g++", "not found", why=why, fix="apt-get install g++ (or set CXX)")
    else:
        yield ok("g++", compiler)
    ninja = shutil.which("ninja")
    if ninja is None:
        yield fail("ninja", "not found", why=why, fix="apt-get install ninja-build")
    else:
        yield ok("ninja", ninja)
    if compiler is not None:
        include = sysconfig.get_paths()["include"]
        yield _header(compiler, "OpenSSL headers", "openssl/sha.h", include, why, "libssl-dev")
        yield _header(compiler, "Python headers", "Python.h", include, why, "python3-dev")


def gpus() -> Finding:
    """What the driver says and what torch can use of it."""
    import torch

    build = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        each = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        named = ", ".join(f"{one.name} ({one.total_memory / _GIB:.0f} GiB)" for one in each)
        return ok("gpu", f"{named}; {build}")
    listed = _driver_lists()
    if listed:
        return fail(
            "gpu",
            f"the driver lists {', '.join(listed)}, {build} cannot use them",
            why="the engine would run on the CPU only",
            fix="install a torch build for your CUDA or ROCm version: pip install 'torpor[gpu]'",
        )
    return ok("gpu", f"none; {build}: use the demo profile, which runs on the CPU")


def memory(available: int, total: int) -> Finding:
    """Both in bytes."""
    found = f"{available / _GIB:.1f} GiB of {total / _GIB:.1f} GiB available"
    why = "engine, store and runtime share it, and the kernel kills the largest when it runs out"
    fix = "end other programs, or give the machine more"
    if available < _NO_MEMORY:
        return fail("memory", found, why=why, fix=fix)
    if available < _LITTLE_MEMORY:
        return warn("memory", found, why=why, fix=fix)
    return ok("memory", found)


def disk(data: Path) -> Finding:
    """Room and permission where the embedded store writes its log."""
    place = data.absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        return fail(
            "disk",
            f"{place} cannot be written to",
            why="the embedded store, the logs and compiled helpers are kept there",
            fix="choose another directory with --data, or change its permissions",
        )
    free = shutil.disk_usage(place).free
    found = f"{free / _GIB:.1f} GiB free at {place}"
    why = "the store appends every page to its log; a full disk stops it"
    fix = "free some, or choose another directory with --data"
    if free < _NO_DISK:
        return fail("disk", found, why=why, fix=fix)
    if free < _LITTLE_DISK:
        return warn("disk", found, why=why, fix=fix)
    return ok("disk", found)


def open_files(soft: int, hard: int) -> Finding:
    """soft, hard: limits of this process; RLIM_INFINITY for none."""
    if soft == resource.RLIM_INFINITY:
        return ok("open files", "no limit")
    found = f"limit {soft} (may be raised to {'any' if hard == resource.RLIM_INFINITY else hard})"
    why = "connections, weight files and sockets between processes all count"
    fix = f"ulimit -n {_FEW_FILES} (for a service: LimitNOFILE)"
    if soft < _TOO_FEW_FILES:
        return fail("open files", found, why=why, fix=fix)
    if soft < _FEW_FILES:
        return warn("open files", found, why=why, fix=fix)
    return ok("open files", found)


def sandbox(support: Support) -> Finding:
    """Whether code of a model can be isolated here, found out by doing it."""
    if support.available:
        return ok("sandbox", f"{support.found}; memory held by {support.held_by}")
    return warn(
        "sandbox",
        support.found,
        why="the tools that run code refuse to, all else works",
        fix=f"a machine needs: {'; '.join(support.needs)}",
    )


def _header(
    compiler: str, subject: str, header: str, include: str, why: str, package: str
) -> Finding:
    """Whether the compiler itself finds a header, wherever it is."""
    done = subprocess.run(
        [compiler, "-E", "-x", "c++", "-I", include, "-include", header, "-o", os.devnull, "-"],
        input=b"",
        capture_output=True,
        timeout=60,
    )
    if done.returncode:
        return fail(subject, f"{header} not found", why=why, fix=f"apt-get install {package}")
    return ok(subject, header)


def _driver_lists() -> list[str]:
    """Names of GPUs as the vendors' tools list them; empty without a tool or a GPU."""
    for command in (["nvidia-smi", "-L"], ["rocm-smi", "--showproductname"]):
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        lines = [line.strip() for line in done.stdout.splitlines() if "GPU" in line]
        if done.returncode == 0 and lines:
            return lines
    return []
