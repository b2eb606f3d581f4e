"""What one command may use, and the command line that holds each of its processes to it."""

from __future__ import annotations

from dataclasses import dataclass

from tools.errors import BadLimits

_MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """All sizes in bytes, all times in seconds.

    seconds:         from start to end, whatever the command does meanwhile
    cpu_seconds:     of processor time, for each process
    cpus:            processors that all processes together may keep busy, such as 1.5; only a
                     control group can hold them to it. None for all that the machine has
    memory:          of all processes together; each may reserve twice as much
    processes:       processes and threads at one time
    open_files:      for each process
    file_bytes:      the largest file that can be written
    workspace_bytes: all files of the workspace together; a command that starts above may only
                     make it smaller
    workspace_files: files, folders and links in the workspace
    free_disk:       what must stay free on the workspace's disk
    temporary_bytes: /tmp and /dev/shm, each; they are in memory and gone afterwards
    output_bytes:    what a command may print
    Raises BadLimits if one of them is not above zero.
    """

    seconds: float = 30.0
    cpu_seconds: int = 30
    cpus: float | None = None
    memory: int = 512 * _MIB
    processes: int = 64
    open_files: int = 256
    file_bytes: int = 64 * _MIB
    workspace_bytes: int = 256 * _MIB
    workspace_files: int = 20_000
    free_disk: int = 256 * _MIB
    temporary_bytes: int = 64 * _MIB
    output_bytes: int = 1 * _MIB

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise BadLimits(f"the limit {name} is {value}; it must be above zero.")

    def wrapper(self) -> list[str]:
        """The start of a command line, run inside: it sets the limits, which can't be raised.

        The number of processes is counted in the sandbox's own user namespace. What is not in
        here, the watcher looks after (watching.py).
        """
        reserved = 2 * self.memory
        return [
            "/usr/bin/prlimit",
            f"--nproc={self.processes}",
            f"--data={reserved}",
            f"--as={4 * reserved}",  # runtimes reserve far more addresses than they ever use
            f"--cpu={self.cpu_seconds}:{self.cpu_seconds + 1}",
            f"--fsize={self.file_bytes}",
            f"--nofile={self.open_files}",
            "--core=0",
            "--memlock=65536",
            "--msgqueue=65536",
            # Should the machine run out of memory after all, these go first.
            "/usr/bin/choom", "-n", "1000", "--",
        ]  # fmt: skip


def size(count: int) -> str:
    """A number of bytes for a person, such as `512 MiB`."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.3g} {unit}"
    return f"{count} bytes"
