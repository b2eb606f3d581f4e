"""Reads and writes below one folder that somebody else may change meanwhile.

Every step of a path is opened on its own and never through a link, so neither `..` nor a link,
nor a folder that is swapped for a link at the wrong moment, leads out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.errors import OutsideWorkspace, TooDeep, ToolFailed
from tools.workspaces.owner import give

_MOST_DEPTH = 64
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe must not wait for its other end.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Entry:
    """path: below the root, with `/`; folder: the open folder it is in, while iterating"""

    path: str
    name: str
    folder: int
    stat: os.stat_result

    def is_file(self) -> bool:
        return stat.S_ISREG(self.stat.st_mode)

    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)

    def is_link(self) -> bool:
        return stat.S_ISLNK(self.stat.st_mode)

    def open(self) -> int:
        """A descriptor for reading. Raises OSError, ELOOP for what is a link by now."""
        return os.open(self.name, os.O_RDONLY | _FILE, dir_fd=self.folder)


@dataclass(frozen=True)
class Usage:
    """bytes: of file contents, or of the blocks they take if those are more; files: all entries"""

    bytes: int
    files: int


@dataclass(frozen=True)
class Target:
    """bytes: that the file takes now, as in Usage; missing: entries that are to be made for it, the
    folders above it too"""

    bytes: int
    missing: int


@dataclass(frozen=True)
class Tree:
    root: Path

    def walk(
        self, below: str = "", *, closed: Callable[[str], None] | None = None
    ) -> Iterator[Entry]:
        """Every entry: by name, those of a folder before those of its subfolders.

        closed: is told the path of a folder that can't be looked into, or is too deep, instead of
                an error
        Raises ToolFailed if `below` or a folder in it can't be opened, TooDeep below 64 folders.
        """
        with self.folder(below) as start:
            yield from _walk(start, "".join(f"{part}/" for part in _parts(below)), 0, closed)

    def usage(self, *, most_files: int) -> Usage:
        """What the folder holds; counting stops above `most_files`."""
        total = count = 0
        for entry in self.walk():
            count += 1
            if count > most_files:
                break
            if not entry.is_folder():
                total += _taken(entry.stat)
        return Usage(total, count)

    def target(self, path: str) -> Target:
        """Of a file that is to be written. Raises OutsideWorkspace, TooDeep."""
        parts = _parts(path)
        there = None
        for count, name in enumerate(parts):
            try:
                with self.folder("/".join(parts[:count])) as above:
                    there = os.lstat(name, dir_fd=above)
            except (FileNotFoundError, ToolFailed):
                return Target(0, len(parts) - count)
        return Target(0 if there is None else _taken(there), 0)

    @contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """A descriptor of a folder. Raises ToolFailed, OutsideWorkspace."""
        current = os.open(self.root, _FOLDER)
        try:
            for part in _parts(path):
                following = _step(part, current, path)
                os.close(current)
                current = following
            yield current
        finally:
            os.close(current)

    @contextmanager
    def parent(self, path: str, *, make: int | None = None) -> Iterator[tuple[int, str]]:
        """A descriptor of the folder that `path` is in, and its last part.

        make: mode of the folders to make where there are none; None to fail instead
        """
        parts = _parts(path)
        if not parts:
            raise ToolFailed("the path is empty; name a file in the workspace")
        *above, last = parts
        current = os.open(self.root, _FOLDER)
        try:
            for part in above:
                if make is not None:
                    _make(part, current, make)
                following = _step(part, current, path)
                os.close(current)
                current = following
            yield current, last
        finally:
            os.close(current)

    def open(self, folder: int, name: str, path: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of the regular file `name` in `folder`, both as parent() gave them.

        path: for messages. Raises ToolFailed, OutsideWorkspace for a link.
        """
        try:
            opened = os.open(name, flags | _FILE, 0o644, dir_fd=folder)
        except OSError as error:
            raise _refusal(error, path, folder, name) from error
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise ToolFailed(f"{path} is not a file")
        return opened


def _taken(there: os.stat_result) -> int:
    return max(there.st_size, there.st_blocks * 512)


def _parts(path: str) -> tuple[str, ...]:
    """The steps of a path in the workspace. Raises OutsideWorkspace."""
    pure = PurePosixPath(path)
    parts = pure.parts
    if pure.is_absolute():
        if parts[:2] != ("/", "workspace"):  # as commands in the sandbox name it
            raise OutsideWorkspace(f"{path} is outside the workspace; use a path below it")
        parts = parts[2:]
    if ".." in parts or "\0" in path:
        raise OutsideWorkspace(f"{path} leads out of the workspace; use a path without ..")
    if len(parts) > _MOST_DEPTH:
        raise TooDeep(f"folders nested more than {_MOST_DEPTH} deep")
    return parts


def _step(part: str, folder: int, path: str) -> int:
    try:
        return os.open(part, _FOLDER, dir_fd=folder)
    except OSError as error:
        raise _refusal(error, path, folder, part) from error


def _refusal(error: OSError, path: str, folder: int, name: str) -> ToolFailed:
    """What to tell the model about a path that could not be opened."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        try:
            if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
                return OutsideWorkspace(f"{path}: {name} is a link, and links are not followed")
        except OSError:
            pass
        return ToolFailed(f"{path}: {name} is not a folder")
    if error.errno == errno.ENOENT:
        return ToolFailed(f"there is no {path} in the workspace")
    return ToolFailed(f"{path}: {error.strerror}")


def _make(part: str, folder: int, mode: int) -> None:
    try:
        os.mkdir(part, mode, dir_fd=folder)
    except FileExistsError:
        return
    made = os.open(part, _FOLDER, dir_fd=folder)
    try:
        give(made)
    finally:
        os.close(made)


def _walk(
    folder: int, prefix: str, depth: int, closed: Callable[[str], None] | None
) -> Iterator[Entry]:
    below = []
    for name in sorted(os.listdir(folder)):
        try:
            entry = Entry(prefix + name, name, folder, os.lstat(name, dir_fd=folder))
        except FileNotFoundError:  # gone since it was listed
            continue
        if entry.is_folder():
            below.append(entry)
        yield entry
    for entry in below:
        try:
            inside = _enter(entry, depth + 1)
        except ToolFailed:
            if closed is None:
                raise
            closed(entry.path)
            continue
        if inside is None:
            continue
        try:
            yield from _walk(inside, f"{entry.path}/", depth + 1, closed)
        finally:
            os.close(inside)


def _enter(entry: Entry, depth: int) -> int | None:
    """A descriptor of a folder; None if it is gone, or something else by now."""
    if depth > _MOST_DEPTH:
        raise TooDeep(f"folders nested more than {_MOST_DEPTH} deep")
    try:
        return os.open(entry.name, _FOLDER, dir_fd=entry.folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return None
        raise ToolFailed(f"{entry.path} can't be looked into: {error.strerror}") from error
