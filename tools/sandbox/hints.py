"""What a failed command's exit code and messages say about the limits it ran into."""

from __future__ import annotations

import signal as signals

from tools.sandbox.limits import Limits, size


def signal(exit_code: int, limits: Limits) -> str:
    """The limit behind the signal that ended a command, if there is one."""
    match exit_code - 128:
        case signals.SIGXCPU:
            return f"it used more than {limits.cpu_seconds} seconds of processor time"
        case signals.SIGXFSZ:
            return f"it wrote a file larger than {size(limits.file_bytes)}"
    return ""


def errors(output: str, exit_code: int, limits: Limits, *, network: bool) -> tuple[str, ...]:
    """One sentence for each kind of limit that the messages of a failed command speak of."""
    if exit_code == 0:
        return ()
    meanings = {
        ("MemoryError", "annot allocate memory", "out of memory"): (
            f"the memory limit is {size(limits.memory)}"
        ),
        ("Resource temporarily unavailable", "can't start new thread", "annot fork"): (
            f"the limit is {limits.processes} processes and threads"
        ),
        ("Too many open files",): f"the limit is {limits.open_files} open files",
        ("File too large", "File size limit"): (
            f"the largest file that can be written is {size(limits.file_bytes)}"
        ),
        ("No space left on device",): (
            f"/tmp holds {size(limits.temporary_bytes)}; /workspace holds more"
        ),
        ("Read-only file system",): "only /workspace and /tmp can be written to",
    }
    if not network:
        meanings["Network is unreachable", "name resolution", "not known"] = "there is no network"
    return tuple(hint for signs, hint in meanings.items() if any(sign in output for sign in signs))
