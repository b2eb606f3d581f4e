"""The append-only file of a server on this machine: is a marker in it yet, and syncing it.

A disk may not answer for long, so both run in threads of their own, and each log is synced by one
at a time: who asks meanwhile shares the next sync, which begins after all of them have asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

_LOGS = "*.incr.aof"
_PIECE = 1 << 20  # bytes that are read at once
_MOST = 1 << 27  # bytes of a log that are searched at all
_THREADS = 4  # one for each log whose disk is silent; the others go on


class LocalLog:
    """A server's folder of logs, as it is when this is made. What is written later is searched."""

    def __init__(self, folder: Path, sizes: dict[str, int]) -> None:
        """sizes: bytes of each file that need no search, by name"""
        self._folder = folder
        self._searched = sizes

    @classmethod
    def at(cls, folder: Path) -> Self | None:
        """None if there is no such folder on this machine, or it is not ours to look into."""
        sizes = {}
        try:
            for path in folder.glob(_LOGS):
                with contextlib.suppress(FileNotFoundError):  # it was rewritten just now
                    sizes[path.name] = path.stat().st_size
            return cls(folder, sizes) if folder.is_dir() else None
        except OSError:
            return None

    async def has(self, marker: bytes) -> bool:
        """Whether it was written by now. Only what is new since the last look is read."""
        return await asyncio.wrap_future(_threads.submit(self._search, marker))

    async def sync(self) -> bool:
        """Have all that is written by now on disk; False if it cannot be synced by us."""
        return await asyncio.wrap_future(_syncs.next(self._folder))

    def _search(self, marker: bytes) -> bool:
        try:
            return any(self._is_in(path, marker) for path in self._folder.glob(_LOGS))
        except OSError:  # it is not ours to read, or was rewritten just now
            return False

    def _is_in(self, path: Path, marker: bytes) -> bool:
        with path.open("rb", buffering=0) as log:
            size = os.fstat(log.fileno()).st_size
            at = max(self._searched.get(path.name, 0), size - _MOST)
            before = b""
            while at < size and (piece := os.pread(log.fileno(), _PIECE, at)):
                if marker in before + piece:
                    return True
                before = (before + piece)[-len(marker) :]
                at += len(piece)
        self._searched[path.name] = at - len(before)
        return False


class _Syncs:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[Path, Future[bool]] = {}
        self._busy: set[Path] = set()

    def next(self, folder: Path) -> Future[bool]:
        """Of the first sync that begins after this call. Nobody can cancel it: it is shared."""
        with self._lock:
            if folder not in self._next:
                self._next[folder] = Future()
                self._next[folder].set_running_or_notify_cancel()
                if folder not in self._busy:
                    self._busy.add(folder)
                    _threads.submit(self._run, folder)
            return self._next[folder]

    def _run(self, folder: Path) -> None:
        while True:
            with self._lock:
                asked = self._next.pop(folder, None)
                if asked is None:
                    self._busy.remove(folder)
                    return
            asked.set_result(_sync(folder))


def _sync(folder: Path) -> bool:
    """A log that is being rewritten is two files for a while, the older one not synced yet. Once it
    is gone, what it had is in another file, which the server has synced."""
    with contextlib.ExitStack() as opened:
        try:
            logs = [opened.enter_context(path.open("rb")) for path in folder.glob(_LOGS)]
            for log in logs:
                os.fdatasync(log.fileno())
        except OSError:
            return False
    return bool(logs)


_threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="torpor-log")
_syncs = _Syncs()
