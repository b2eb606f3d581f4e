"""Control groups, with which the kernel holds all processes of one command together to a limit.

A group is made below the one this process is in (cgroup v1, or at the root of v2), or beside it
where the group above both was given to us (v2: a group with processes of its own can have none
below it with limits); elsewhere it would be outside the limits that this process was put under.
The kernel lets nobody in the sandbox leave it or see it.

    memory     what its processes have, and the files in /tmp and /dev/shm, which no process has
    processes  and threads, however they were started
    processors how much of them all together have, if `Limits.cpus` says so
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.errors import SandboxUnavailable
from tools.sandbox.limits import Limits, size

logger = logging.getLogger(__name__)

_PREFIX = "torpor-sandbox-"
_SWITCH = "cgroup.subtree_control"
_OUTSIDE = 4  # processes that make the sandbox, and are in its group
_PERIOD = 100_000  # microseconds in which a share of processors is given
_LEAST_QUOTA = 1000  # of these; the kernel takes no less
_LEFT_BEHIND = 3600.0  # seconds after which an empty group is nobody's: a command enters at once
_PATIENCE = 10.0  # seconds for the kernel to take away processes that have ended
_DELEGATE = (
    "run it where systemd gives this user a part of the tree: systemd-run --user -p Delegate=yes "
    "-p DelegateSubgroup=main COMMAND (systemd 254 or later)"
)


_CONTROLLERS = ("memory", "pids", "cpu")


class Group:
    """One command's group. Close it when the command has ended.

    Raises SandboxUnavailable if none can be made that holds to `limits`, and says why.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._at: dict[str, Path] = {}
        tree = _tree()
        self.version = tree.version
        name = f"{_PREFIX}{secrets.token_hex(8)}"
        try:
            for controller in _CONTROLLERS:
                self._at[controller] = tree.made(controller, name)
            for file, value in _settings(self.version, self._at, limits):
                file.write_text(value)
        except OSError as error:
            self.close()
            raise SandboxUnavailable(_why(error, tree.own["memory"])) from error

    def entered(self, command: list[str]) -> list[str]:
        """`command`, begun inside the group."""
        script = 'until [ "$1" = -- ]; do echo $$ >"$1" || exit 1; shift; done; shift; exec "$@"'
        doors = [str(folder / "cgroup.procs") for folder in self._folders]
        return ["/bin/sh", "-c", script, "sh", *doors, "--", *command]

    def reached(self) -> str:
        """The limit that the kernel has ended a process for, as a sentence; empty if for none."""
        file = "memory.events" if self.version == 2 else "memory.oom_control"
        lines = (self._at["memory"] / file).read_text().splitlines()
        killed = sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        return f"it used more than {size(self._limits.memory)} of memory" if killed else ""

    def close(self) -> None:
        """End what is still in it, and remove it."""
        deadline = time.monotonic() + _PATIENCE
        for folder in self._folders:
            while not _removed(folder):
                if time.monotonic() > deadline:
                    logger.error("the control group %s could not be removed", folder)
                    break
                time.sleep(0.002)

    @property
    def _folders(self) -> list[Path]:
        return list(dict.fromkeys(self._at.values()))


@dataclass(frozen=True)
class _Tree:
    """Where this process is in the machine's tree of groups. own: controller -> its group"""

    version: int
    own: Mapping[str, Path]

    def made(self, controller: str, name: str) -> Path:
        """A new group of this name that can have limits. Raises OSError."""
        own = self.own[controller]
        if self.version == 1:
            return _made(own / name)
        refused: OSError | None = None
        for parent in (own, own.parent):
            if not (parent / _SWITCH).exists() or (parent != own and not _given(parent)):
                continue
            try:
                _enable(parent)
                return _made(parent / name)
            except OSError as error:
                refused = refused or error
        raise refused or FileNotFoundError(errno.ENOENT, "no such group", str(own))


def _tree() -> _Tree:
    """Raises SandboxUnavailable."""
    entries = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = {name: path for _, names, path in entries for name in names.split(",")}
    version = 1 if "memory" in own else 2
    mounts = _mounts()
    groups = {}
    for controller in _CONTROLLERS:
        kind = controller if version == 1 else ""
        if kind not in own or kind not in mounts:
            raise SandboxUnavailable(f"no control groups for {controller} are mounted here")
        mounted, root = mounts[kind]
        path = PurePosixPath(own[kind])
        inside = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
        groups[controller] = mounted / inside
    return _Tree(version, groups)


def _mounts() -> dict[str, tuple[Path, str]]:
    """Controller, or nothing for version 2 -> where its tree is mounted, and which part of it."""
    found: dict[str, tuple[Path, str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind, _, options = fields[fields.index("-") + 1 :][:3]
        names = [""] if kind == "cgroup2" else options.split(",") if kind == "cgroup" else []
        for name in names:
            found.setdefault(name, (Path(fields[4]), fields[3]))
    return found


def _given(folder: Path) -> bool:
    """Whether a group is for us to divide: systemd marks those of `Delegate=yes`. That root may
    write to it says nothing."""
    for mark in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):  # it has no such mark, or can have none
            if os.getxattr(folder, mark) == b"1":
                return True
    return os.geteuid() != 0 and folder.stat().st_uid == os.geteuid()


def _enable(folder: Path) -> None:
    """Let groups below one of version 2 have limits."""
    switch = folder / _SWITCH
    if set(_CONTROLLERS) - set(switch.read_text().split()):
        switch.write_text(" ".join(f"+{controller}" for controller in _CONTROLLERS))


def _made(folder: Path) -> Path:
    _sweep(folder.parent)
    folder.mkdir(exist_ok=True)  # controllers may share one
    return folder


def _sweep(folder: Path) -> None:
    """Remove groups whose makers were killed."""
    before = time.time() - _LEFT_BEHIND
    for left in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # it is in use, or gone
            if left.stat().st_mtime < before:
                left.rmdir()


def _settings(version: int, at: Mapping[str, Path], limits: Limits) -> list[tuple[Path, str]]:
    """Files and what to write to them, in this order."""
    memory, cpu = at["memory"], at["cpu"]
    settings = [(at["pids"] / "pids.max", str(limits.processes + _OUTSIDE))]
    if version == 2:
        settings.append((memory / "memory.max", str(limits.memory)))
        settings.append((memory / "memory.oom.group", "1"))
        swap = (memory / "memory.swap.max", "0")
    else:
        settings.append((memory / "memory.limit_in_bytes", str(limits.memory)))
        swap = (memory / "memory.memsw.limit_in_bytes", str(limits.memory))
    if swap[0].exists():  # some kernels have none
        settings.append(swap)
    if limits.cpus is not None:
        quota = max(_LEAST_QUOTA, int(limits.cpus * _PERIOD))
        if version == 2:
            settings.append((cpu / "cpu.max", f"{quota} {_PERIOD}"))
        else:
            settings.append((cpu / "cpu.cfs_period_us", str(_PERIOD)))
            settings.append((cpu / "cpu.cfs_quota_us", str(quota)))
    return settings


def _removed(folder: Path) -> bool:
    """Whether it is gone. If processes are in it, they are told to end."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        with contextlib.suppress(OSError):
            for number in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)
        return False
    return True


def _why(error: OSError, own: Path) -> str:
    match error.errno:
        case errno.EROFS:
            return f"{own} is mounted read-only (start the container with a writable cgroup tree)"
        case errno.EBUSY:
            return f"{own} has processes of its own; {_DELEGATE}"
        case errno.EACCES | errno.EPERM:
            return f"this user may make no control groups at {own}; {_DELEGATE}"
        case errno.ENOENT:
            return f"{own} was given no limits on {', '.join(_CONTROLLERS)}; {_DELEGATE}"
    return f"no control group could be made at {own}: {error}"
