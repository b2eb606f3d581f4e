"""An archive in a directory of this machine.

Written with plain system calls and not through `obstore`, for two reasons. Moving out deletes the
copy in memory, so a file must be on disk before it counts, and the library's local puts never
sync. And `readv` and `writev` need no copy between a caller's several buffers and the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from state_store.archive.base import Archive, StoredFile, pieces_of
from state_store.archive.names import PART_SUFFIX
from state_store.errors import ArchiveRefused, ArchiveUnavailable
from state_store.resp import Value

_REFUSALS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


class Directory(Archive):
    """Files below `root`, which is made at first use. Only their owner can read them.

    A crash in the midst of a `put` leaves a file with PART_SUFFIX; `collect_orphans` removes it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.url = f"file://{self._root}"
        with self._guard():
            _make_folder(self._root)

    def put(self, name: str, value: Value) -> None:
        path = self._root / name
        part = path.with_name(path.name + PART_SUFFIX)
        with self._guard():
            file = self._create(part)
            try:
                _write(file, pieces_of(value))
                os.fsync(file)
            finally:
                os.close(file)
            part.replace(path)
            _sync(path.parent)

    def get_into(self, name: str, value: Value) -> int | None:
        with self._guard():
            try:
                file = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._look()
                return None
            try:
                size = os.fstat(file).st_size
                pieces = pieces_of(value)
                if size <= sum(map(len, pieces)):
                    _read(file, pieces, size)
                return size
            finally:
                os.close(file)

    def delete(self, names: Sequence[str]) -> None:
        with self._guard():
            for name in names:
                (self._root / name).unlink(missing_ok=True)

    def list(self, folder: str) -> Iterator[StoredFile]:
        with self._guard():
            self._look()
        waiting = [self._root / folder]
        while waiting:
            with self._guard(), contextlib.suppress(FileNotFoundError):  # removed meanwhile
                found = []
                for entry in os.scandir(waiting.pop()):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                        continue
                    name = str(Path(entry.path).relative_to(self._root))
                    with contextlib.suppress(FileNotFoundError):
                        found.append(StoredFile(name, entry.stat().st_size))
                yield from found

    def _create(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._look()
            _make_folder(path.parent)
            return os.open(path, flags, 0o600)

    def _look(self) -> None:
        """A root that is gone, as when its disk is not mounted, is not an empty archive."""
        if not self._root.is_dir():
            raise ArchiveUnavailable(
                f"the archive's directory {self._root} is gone; is its disk mounted?"
            )

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _REFUSALS:
                raise ArchiveRefused(f"the archive at {self.url} refused: {error}") from error
            raise ArchiveUnavailable(f"the archive at {self.url} failed: {error}") from error


def _make_folder(path: Path) -> None:
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(file: int, pieces: Sequence[memoryview]) -> None:
    rest = [piece for piece in pieces if piece]
    while rest:
        rest = _after(rest, os.writev(file, rest))


def _read(file: int, pieces: Sequence[memoryview], size: int) -> None:
    rest = [piece for piece in pieces if piece]
    while size:
        count = os.readv(file, rest)
        if count == 0:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        size -= count
        rest = _after(rest, count)


def _after(pieces: list[memoryview], count: int) -> list[memoryview]:
    """What is left of the pieces after their first `count` bytes."""
    for index, piece in enumerate(pieces):
        if count < len(piece):
            return [piece[count:], *pieces[index + 1 :]]
        count -= len(piece)
    return []
