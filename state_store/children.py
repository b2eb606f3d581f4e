"""Processes that do not outlive the one that starts them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

# Sets PR_SET_PDEATHSIG (1, see prctl(2)), which stays over exec. Who is dead by then sends nothing.
# In a program of its own and not in `preexec_fn`, which may deadlock where there are threads.
_PROGRAM = """
import ctypes, os, sys
_, sent, parent, *command = sys.argv
ctypes.CDLL(None).prctl(1, int(sent))
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""

_starting = threading.Lock()
_starter: _Starter | None = None


def start_child(
    command: Sequence[str], *, sent_at_our_end: signal.Signals, **options: Any
) -> subprocess.Popen[bytes]:
    """`command`, whose first word is a path, as a process that the kernel sends a signal to when
    this one ends, be it by `kill -9`. Which thread asks for it does not matter.

    options: of `subprocess.Popen`
    """
    return _running_starter().start_process(
        [
            *(sys.executable, "-I", "-S", "-c", _PROGRAM),
            *(str(int(sent_at_our_end)), str(os.getpid())),
            *command,
        ],
        options,
    )


class _Starter(threading.Thread):
    """Starts processes and stays: to the kernel, the parent is the thread and not the process."""

    def __init__(self) -> None:
        super().__init__(name="starts children", daemon=True)
        self._asked: SimpleQueue[tuple[list[str], dict[str, Any], Future[Any]]] = SimpleQueue()

    def start_process(self, command: list[str], options: dict[str, Any]) -> subprocess.Popen[bytes]:
        started: Future[subprocess.Popen[bytes]] = Future()
        self._asked.put((command, options, started))
        return started.result()

    def run(self) -> None:
        while True:
            command, options, started = self._asked.get()
            try:
                started.set_result(subprocess.Popen(command, **options))
            except BaseException as error:
                started.set_exception(error)


def _running_starter() -> _Starter:
    global _starter
    with _starting:
        if _starter is None or not _starter.is_alive():  # in a forked process it is not
            _starter = _Starter()
            _starter.start()
        return _starter
