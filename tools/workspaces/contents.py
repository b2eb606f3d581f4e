"""File contents by their hash, shared by all snapshots; copied as the file system best can."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tools.errors import SnapshotMissing

_FICLONE = 0x40049409  # ioctl: make this file share the blocks of that one
_CHUNK = 2**20
_DIGEST = re.compile(r"[0-9a-f]{64}")
# What a file system answers that can't: not supported, other device, not such a pair of files.
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)


@dataclass(frozen=True)
class Contents:
    """A folder with one read-only file for each content, below the first two digits of its hash.

    making: a folder beside it for what is not complete yet
    """

    root: Path
    making: Path

    def keep(self, source: int) -> str:
        """Keep what the open file `source` holds; its hash. A later change of it changes nothing.

        What is hashed is our copy, so the file may change meanwhile. What is kept already is not
        copied: most files are the same in one snapshot as in the next.
        """
        with os.fdopen(os.dup(source), "rb") as original:
            original.seek(0)
            digest = hashlib.file_digest(original, "sha256").hexdigest()
        if self.has(digest):
            return digest
        number, name = tempfile.mkstemp(dir=self.making)
        try:
            with os.fdopen(number, "r+b") as copy:
                clone(source, copy.fileno())
                copy.seek(0)
                digest = hashlib.file_digest(copy, "sha256").hexdigest()
                os.fchmod(copy.fileno(), 0o400)
                os.fsync(copy.fileno())
            place = self._place(digest)
            place.parent.mkdir(parents=True, exist_ok=True)
            Path(name).replace(place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return digest

    def put(self, digest: str, target: int) -> None:
        """Write a content to the empty open file `target`, which can be read too.

        Raises SnapshotMissing if it isn't kept, or is another one by now.
        """
        with self._open(digest) as source:
            clone(source.fileno(), target)
        with os.fdopen(os.dup(target), "rb") as copy:
            copy.seek(0)
            if hashlib.file_digest(copy, "sha256").hexdigest() != digest:
                raise SnapshotMissing(
                    f"{self._place(digest)} was changed, and is not used. Delete that file; then "
                    "the content is fetched again where it can be."
                )

    def read(self, digest: str, start: int, count: int) -> bytes:
        """`count` bytes of a content from `start` on, fewer at its end. Raises SnapshotMissing."""
        with self._open(digest) as source:
            return os.pread(source.fileno(), count, start)

    def has(self, digest: str, size: int | None = None) -> bool:
        """size: bytes that it has to have"""
        place = self._place(digest)
        return place.is_file() and (size is None or size == place.stat().st_size)

    def add(self, pieces: Iterable[bytes]) -> str:
        """Keep a content that comes from elsewhere; its hash."""
        with tempfile.TemporaryFile(dir=self.making) as copy:
            for piece in pieces:
                copy.write(piece)
            copy.flush()
            return self.keep(copy.fileno())

    def size(self, digest: str) -> int:
        """In bytes."""
        return self._place(digest).stat().st_size

    def all(self) -> Iterator[str]:
        """The hashes of all that is kept."""
        for place in self.root.glob("??/*"):
            if _DIGEST.fullmatch(place.parent.name + place.name):
                yield place.parent.name + place.name

    def drop(self, digest: str) -> int:
        """Forget a content; the bytes it had."""
        size = self.size(digest)
        self._place(digest).unlink()
        return size

    def _open(self, digest: str) -> BinaryIO:
        try:
            return self._place(digest).open("rb")
        except FileNotFoundError as error:
            raise SnapshotMissing(
                f"the content {digest[:12]}… of a workspace snapshot is not in {self.root}; "
                "was it forgotten? Nothing was changed."
            ) from error

    def _place(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):  # as a path, it could lead anywhere
            raise SnapshotMissing(f"{digest!r} is not the hash of a content; nothing was read.")
        return self.root / digest[:2] / digest[2:]


def clone(source: int, target: int) -> bool:
    """Make the empty open file `target` hold what `source` holds.

    True: they share blocks until one changes (XFS, btrfs, bcachefs); False: it was copied.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    else:
        return True
    offset = 0
    while count := os.sendfile(target, source, offset, _CHUNK):
        offset += count
    return False
