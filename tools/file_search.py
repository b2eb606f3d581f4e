"""Finds a word in the text files under one folder, and never looks outside it."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.define import Tool, define
from tools.effects import Effect
from tools.errors import FolderMissing, ToolFailed

logger = logging.getLogger(__name__)

_MOST_SHOWN = 3
_MOST_LINE_CHARS = 400


def file_search(root: Path, *, max_bytes: int = 4 * 2**20, seconds: float = 20.0) -> Tool:
    """The tool for one folder.

    max_bytes: larger files are skipped
    seconds:   a search that takes longer is given up
    Raises FolderMissing if `root` is not a folder.
    """
    if not root.is_dir():
        raise FolderMissing(f"{root} is not a folder; give one that holds text files.")
    folder = Folder(root.resolve(), max_bytes, seconds)

    def find(pattern: str) -> str:
        """Finds a word in the files of the folder.

        Args:
            pattern: The word to find
        """
        return folder.find(pattern).text()

    return define(find, name="file_search", effect=Effect.PURE, timeout=seconds + 5.0)


@dataclass(frozen=True)
class Match:
    """file: path below the folder, with `/`; line: counted from one; text: the line, stripped."""

    file: str
    line: int
    text: str


@dataclass
class Found:
    """matches: by path, the files of a folder before those of its subfolders
    skipped: how many were not read, by reason: binary, too large, unreadable, link. Links are left
             out of `text`: what they show inside the folder is found there anyway, and the rest is
             none of the model's business.
    """

    matches: list[Match] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """`N matches`, the first three of them, and what was skipped if anything was."""
        lines = [f"{len(self.matches)} matches"]
        lines += [
            f"{match.file}:{match.line}: {match.text}" for match in self.matches[:_MOST_SHOWN]
        ]
        reasons = [f"{count} {why}" for why, count in sorted(self.skipped.items()) if why != "link"]
        if reasons:
            lines.append(f"skipped: {', '.join(reasons)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Folder:
    """The files below `root`. Links are not followed, neither to files nor to folders."""

    root: Path
    max_bytes: int
    seconds: float

    def find(self, word: str) -> Found:
        """Search whole words, ignoring case. Raises ToolFailed if there is no word, or no time."""
        word = word.strip()
        if not word:
            raise ToolFailed("the pattern is empty; give the word to find")
        pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
        found = Found()
        deadline = time.monotonic() + self.seconds
        for name, text in self._files(found):
            if time.monotonic() > deadline:
                raise ToolFailed(
                    f"the folder is too large to search in {self.seconds:g} seconds; do without"
                )
            for number, line in enumerate(text.splitlines(), start=1):
                if pattern.search(line):
                    found.matches.append(Match(name, number, _shortened(line.strip())))
        if found.skipped:
            logger.info("search in %s skipped %s", self.root, found.skipped)
        return found

    def _files(self, found: Found) -> Iterator[tuple[str, str]]:
        """Yield each file's path and text, empty for one that is skipped, which is counted."""
        # fwalk hands out open folders: a folder swapped for a link meanwhile changes nothing.
        for path, folders, files, folder_fd in os.fwalk(self.root):
            folders.sort()
            links = sum(_is_link(name, folder_fd) for name in folders)
            if links:
                found.skipped["link"] += links
            below = Path(path).relative_to(self.root)
            for name in sorted(files):
                content = self._read(name, folder_fd)
                if isinstance(content, _Skipped):
                    found.skipped[content.reason] += 1
                    yield name, ""
                else:
                    yield (below / name).as_posix(), content

    def _read(self, name: str, folder_fd: int) -> str | _Skipped:
        # O_NONBLOCK: opening a named pipe must not wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(name, flags, dir_fd=folder_fd)
        except OSError as error:
            return _Skipped("link" if error.errno == errno.ELOOP else "unreadable")
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return _Skipped("unreadable")
            data = file.read(self.max_bytes + 1)
        if len(data) > self.max_bytes:
            return _Skipped("too large")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return _Skipped("binary")
        return _Skipped("binary") if "\0" in text else text


@dataclass(frozen=True)
class _Skipped:
    reason: str


def _is_link(name: str, folder_fd: int) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(name, dir_fd=folder_fd).st_mode)
    except FileNotFoundError:  # gone since it was listed
        return False


def _shortened(line: str) -> str:
    return line if len(line) <= _MOST_LINE_CHARS else f"{line[:_MOST_LINE_CHARS]}…"
