"""Which signals stop a service."""

from __future__ import annotations

import signal


def stopping() -> list[signal.Signals]:
    """SIGTERM; and SIGHUP, which comes when the terminal is closed, unless `nohup` has it
    ignored."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]


def ignore_hang_up() -> None:
    """While it stops, a process must not take a terminal that is closed for impatience: SIGHUP
    comes from the kernel, and mostly from the shell as well. On the main thread."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
