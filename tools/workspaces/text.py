"""Text files below a folder: read within limits, written whole."""

from __future__ import annotations

import os
import stat

from tools.errors import OutsideWorkspace, ToolFailed
from tools.workspaces.owner import give
from tools.workspaces.tree import Tree


def read(opened: int, most_bytes: int) -> str:
    """The text of an open regular file, which is closed.

    Raises NotText, whose message is `too large`, `binary` or `unreadable`.
    """
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise NotText("unreadable")
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise NotText("too large")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise NotText("binary") from error
    if "\0" in text:
        raise NotText("binary")
    return text


class NotText(ToolFailed):
    """A file is not read as text; the message is one word or two that say why."""


def write(tree: Tree, path: str, text: str) -> bool:
    """Make the file at `path` hold `text`, and the folders above it; whether there was one.

    It is replaced as a whole: a reader sees the old text or the new one. Raises ToolFailed,
    OutsideWorkspace.
    """
    with tree.parent(path, make=0o755) as (folder, name):
        mode, existed = 0o644, False
        try:
            before = os.lstat(name, dir_fd=folder)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISLNK(before.st_mode):
                raise OutsideWorkspace(f"{path}: {name} is a link, and links are not followed")
            if not stat.S_ISREG(before.st_mode):
                raise ToolFailed(f"{path} is not a file")
            mode, existed = stat.S_IMODE(before.st_mode) & 0o777, True
        fresh = f".{os.urandom(8).hex()}.new"
        made = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=folder)
        try:
            with os.fdopen(made, "w", encoding="utf-8", newline="") as file:
                give(made)
                os.fchmod(made, mode)
                file.write(text)
            os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(fresh, dir_fd=folder)
            raise
        return existed
