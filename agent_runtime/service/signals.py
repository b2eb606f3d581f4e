"""Which signals stop a service."""

from __future__ import annotations

import signal


def stopping() -> list[signal.Signals]:
    """SIGTERM; and SIGHUP, which comes when the terminal is closed, unless `nohup` has it
    ignored."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]
