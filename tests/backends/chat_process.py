"""`torpor chat` as a person runs it, in a terminal."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import pexpect

_COMMAND = [sys.executable, "-m", "agent_runtime.cli", "chat"]
_READS = "\x1b[?2004h"  # bracketed paste, which is on while a line is read
_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Chat:
    """One in a terminal of its own, of 100 columns."""

    def __init__(self, url: str, *arguments: str, home: Path) -> None:
        self._child = pexpect.spawn(
            _COMMAND[0],
            [*_COMMAND[1:], "--url", url, "--files", str(home), *arguments],
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            dimensions=(40, 100),
            encoding="utf-8",
            timeout=60,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if not self._child.closed:
            self._child.close(force=True)

    def until(self, text: str) -> str:
        """Wait for a text; what was shown before it, without colours."""
        self._child.expect_exact(text)
        return _SEQUENCES.sub("", str(self._child.before))

    def prompt(self, name: str) -> str:
        """Wait until a line is read; what was shown before."""
        shown = self.until(_READS)
        self.until(f"{name}>")
        return shown

    def say(self, line: str) -> None:
        self._child.send(f"{line}\r")

    def press(self, key: str) -> None:
        """key: of Ctrl, such as `z`"""
        self._child.sendcontrol(key)

    def hang_up(self) -> int:
        """Close the terminal; the exit code."""
        self._child.ptyproc.fileobj.close()
        _, status = os.waitpid(self._child.pid, 0)
        self._child.closed = True
        return os.waitstatus_to_exitcode(status)

    def end(self) -> tuple[int | None, str]:
        """The exit code, and what was shown at last."""
        self._child.expect(pexpect.EOF)
        self._child.close()
        return self._child.exitstatus, _SEQUENCES.sub("", str(self._child.before))
