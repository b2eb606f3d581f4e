"""Looks after the limits that no single process can be given, while a command runs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from pathlib import Path

from tools.errors import ToolFailed
from tools.sandbox.cgroups import Group
from tools.sandbox.limits import Limits, size
from tools.workspaces.tree import Tree

logger = logging.getLogger(__name__)

_PAGE = os.sysconf("SC_PAGE_SIZE")
EVERY = 0.05  # seconds; what grows in it can pass a limit before the end comes
_SHARE = 5  # a look at a large workspace may take one part in so many of the time


class Watch(threading.Thread):
    """Ends the processes below `first` as soon as they are over a limit, and says which.

    A thread, because a busy event loop must not let a command grow.

    first: the sandbox's process number one, as the host counts; its end ends all others
    group: holds its memory; without one it is counted here
    """

    def __init__(self, first: int, workspace: Path, limits: Limits, group: Group | None) -> None:
        super().__init__(name=f"sandbox {first}", daemon=True)
        self._first = first
        self._pidfd = os.pidfd_open(first)
        self._tree = Tree(workspace)
        self._limits = limits
        self._group = group
        self._deadline = time.monotonic() + limits.seconds
        self._over = threading.Event()
        self.reached = ""  # the limit that ended the command, as a sentence for the model

    def run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # without us the limits would not hold
            logger.exception("the watch of a sandbox failed")
            self.end(f"its limits can't be looked after: {error}")

    def end(self, reason: str) -> None:
        """End the command now. The first reason given stays."""
        self.reached = self.reached or reason
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Stop watching: the command has ended."""
        self._over.set()
        self.join()
        os.close(self._pidfd)

    def _watch(self) -> None:
        before, next_look = None, 0.0
        while not self._over.wait(EVERY):
            now = time.monotonic()
            reason = self._time(now)
            reason = reason or (self._memory() if self._group is None else self._group.reached())
            if not reason and now >= next_look:
                before, reason = self._disk(before)
                next_look = time.monotonic() + _SHARE * (time.monotonic() - now)
            if reason:
                self.end(reason)
                return

    def _time(self, now: float) -> str:
        if now < self._deadline:
            return ""
        return f"it took longer than {self._limits.seconds:g} seconds"

    def _memory(self) -> str:
        # Pages that processes share are counted for each of them at first: it is an upper bound.
        # Their parts are read one by one, and grow when another process ends meanwhile: so twice.
        for _ in range(2):
            processes = self._processes()
            if sum(_resident(process) for process in processes) <= self._limits.memory:
                return ""
            used = sum(_proportional(process) for process in processes)
            if used <= self._limits.memory:
                return ""
        return f"it used more than {size(self._limits.memory)} of memory"

    def _processes(self) -> list[Path]:
        """The folders in /proc of all processes in the sandbox, as its own /proc lists them."""
        inside = Path(f"/proc/{self._first}/root/proc")
        try:
            if inside.stat().st_dev == Path("/proc").stat().st_dev:
                return []  # it is being made, and still sees the host's: nothing runs in it yet
            return [path for path in inside.iterdir() if path.name.isdigit()]
        except (FileNotFoundError, ProcessLookupError):  # not there yet, or over
            return []

    def _disk(self, before: int | None) -> tuple[int, str]:
        """Bytes of the workspace when the command started, and what is over."""
        limits = self._limits
        try:
            usage = self._tree.usage(most_files=limits.workspace_files)
        except ToolFailed as error:  # too deep, or closed so that nobody can count
            return before or 0, f"the workspace can't be measured: {error}"
        before = usage.bytes if before is None else before
        if usage.files > limits.workspace_files:
            return before, f"the workspace holds more than {limits.workspace_files} files"
        if usage.bytes > max(limits.workspace_bytes, before):
            return before, f"the workspace grew over {size(limits.workspace_bytes)}"
        # Also what no walk finds: files that are deleted and still open.
        free = os.statvfs(self._tree.root)
        if free.f_bavail * free.f_frsize < limits.free_disk:
            return before, f"less than {size(limits.free_disk)} are free on the workspace's disk"
        return before, ""


def _resident(process: Path) -> int:
    """Bytes in memory, those that are shared among them."""
    try:
        return int((process / "statm").read_text().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError):  # it ended
        return 0


def _proportional(process: Path) -> int:
    """Bytes in memory, with its part of those that are shared."""
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
