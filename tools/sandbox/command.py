"""The command line that makes a sandbox: what is inside, and as whom."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.errors import SandboxUnavailable
from tools.sandbox.limits import Limits
from tools.workspaces.owner import UNPRIVILEGED, root

WORKSPACE = "/workspace"
_INSIDE = 1000
_PASSWD = f"user:x:{_INSIDE}:{_INSIDE}::{WORKSPACE}:/bin/sh\n".encode()
_GROUP = f"user:x:{_INSIDE}:\n".encode()
_READABLE = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime", "/etc/ssl/certs")
_TOP_LEVEL = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_ENVIRONMENT = {
    "HOME": WORKSPACE,
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": WORKSPACE,
    "PYTHONUNBUFFERED": "1",
    "USER": "user",
}
# As root, bubblewrap is started as another user: for the kernel root has no process limit, and
# much of /proc belongs to it. That user may be unable to walk to the workspace or to Python, so
# they are mounted where it can, in a mount namespace that nobody else sees.
_AS_ROOT = f"""set -e
mount -t tmpfs -o mode=755,size=64k tmpfs /mnt
mkdir /mnt/workspace /mnt/python
mount --bind "$1" /mnt/workspace
mount --bind "$2" /mnt/python
shift 2
exec setpriv --reuid={UNPRIVILEGED} --regid={UNPRIVILEGED} --clear-groups --no-new-privs -- "$@"
"""


@dataclass(frozen=True)
class Descriptors:
    """Numbers of open files that bubblewrap is given.

    seccomp: the filter to read; status: where it writes what became of the sandbox;
    files: path inside -> content to read
    """

    seccomp: int
    status: int
    files: dict[str, int]


def identity_files() -> dict[str, bytes]:
    """Path inside -> content of the files that name the user."""
    return {"/etc/passwd": _PASSWD, "/etc/group": _GROUP}


def python() -> str:
    """The interpreter for code in the sandbox: this one's base, without its packages."""
    return str(Path(sys.base_prefix).resolve() / "bin" / "python3")


def options(workspace: Path, limits: Limits, *, network: bool, open_files: Descriptors) -> bytes:
    """What bubblewrap makes, as it reads it from a descriptor: its command line is seen inside.

    workspace: absolute
    """
    prefix = Path(sys.base_prefix).resolve()
    mounted = (Path("/mnt/workspace"), Path("/mnt/python")) if root() else (workspace, prefix)
    line = [*_isolation(network=network), *_file_system(*mounted, prefix, limits)]
    for path, number in open_files.files.items():
        line += ["--ro-bind-data", str(number), path]
    line += ["--remount-ro", "/", "--remount-ro", "/dev", "--chdir", WORKSPACE]
    line += ["--seccomp", str(open_files.seccomp), "--json-status-fd", str(open_files.status)]
    return b"".join(os.fsencode(part) + b"\0" for part in line)


def command_line(
    command: Sequence[str], workspace: Path, limits: Limits, *, options: int
) -> list[str]:
    """The whole command line. Raises SandboxUnavailable if a program is missing.

    options: the descriptor that options() can be read from
    """
    bwrap = _program("bwrap", "bubblewrap")
    line = [bwrap, "--args", str(options), "--", *limits.wrapper(), *command]
    if not root():
        return line
    for program in ("unshare", "mount", "setpriv"):
        _program(program, "util-linux")
    # `unshare --mount` makes what is mounted inside invisible outside.
    prefix = Path(sys.base_prefix).resolve()
    script = ["/bin/sh", "-c", _AS_ROOT, "sh", str(workspace), str(prefix)]
    return ["unshare", "--mount", "--", *script, *line]


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SandboxUnavailable(
            f"{name} is not installed, so nothing was run. Install it: apt-get install {package}"
        )
    return found


def _isolation(*, network: bool) -> list[str]:
    line = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"]
    if network:
        line.append("--share-net")
    line += ["--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"]
    line += ["--uid", str(_INSIDE), "--gid", str(_INSIDE), "--clearenv"]
    for name, value in _ENVIRONMENT.items():
        line += ["--setenv", name, value]
    return line


def _file_system(workspace: Path, python: Path, prefix: Path, limits: Limits) -> list[str]:
    """workspace, python: where they are mounted from; prefix: where Python looks for its files"""
    line = ["--ro-bind", "/usr", "/usr"]
    for name in _TOP_LEVEL:
        here = Path("/", name)
        if here.is_symlink():
            line += ["--symlink", str(here.readlink()), str(here)]
        elif here.is_dir():
            line += ["--ro-bind", str(here), str(here)]
    if not prefix.is_relative_to("/usr"):
        line += ["--ro-bind", str(python), str(prefix)]
    for path in _READABLE:
        line += ["--ro-bind-try", path, path]
    most = str(limits.temporary_bytes)
    line += ["--proc", "/proc", "--dev", "/dev", "--size", most, "--tmpfs", "/dev/shm"]
    line += ["--size", most, "--perms", "1777", "--tmpfs", "/tmp"]
    return [*line, "--bind", str(workspace), WORKSPACE]
