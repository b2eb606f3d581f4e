"""Whose files a workspace holds: ours, or as root those of a user who can do nothing else."""

from __future__ import annotations

import functools
import os
from pathlib import Path

# Of no user on common systems. Code of a model never runs as root, not even inside namespaces.
UNPRIVILEGED = 64900


@functools.cache
def root() -> bool:
    """Whether we can become another user. The root of a user namespace that holds nobody else
    can't: to the kernel it is an ordinary user, and is treated as one here."""
    if os.geteuid() != 0:
        return False
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(int(first) <= UNPRIVILEGED < int(first) + int(count) for first, _, count in ranges)


def owner() -> int:
    """The user and group id that files in workspaces have to have."""
    return UNPRIVILEGED if root() else os.geteuid()


def give(descriptor: int) -> None:
    """Make an open file or folder the owner's, where we are root."""
    if root():
        os.fchown(descriptor, UNPRIVILEGED, UNPRIVILEGED)
