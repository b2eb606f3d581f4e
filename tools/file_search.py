"""Finds a word in the text files under one folder, and never looks outside it."""

from __future__ import annotations

import errno
import fnmatch
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.define import Tool, define
from tools.effects import Effect
from tools.errors import FolderMissing, ToolFailed
from tools.workspaces import text
from tools.workspaces.tree import Entry, Tree

logger = logging.getLogger(__name__)

_MOST_SHOWN = 3
_MOST_KEPT = 100
_LINES = 10_000  # between two looks at the clock
_LINE_END = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
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
    """matches: the first hundred, by path, the files of a folder before those of its subfolders
    count:   of all there are
    skipped: how many were not read, by reason: binary, too large, unreadable, link. Links are left
             out of `text`: what they show inside the folder is found there anyway, and the rest is
             none of the model's business.
    """

    matches: list[Match] = field(default_factory=list)
    count: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """`N matches`, the first three of them, and what was skipped if anything was."""
        lines = [f"{self.count} matches"]
        lines += [
            f"{match.file}:{match.line}: {match.text}" for match in self.matches[:_MOST_SHOWN]
        ]
        return "\n".join([*lines, *self.skipped_text()])

    def skipped_text(self) -> list[str]:
        """A line, or none if nothing was skipped."""
        reasons = [f"{count} {why}" for why, count in sorted(self.skipped.items()) if why != "link"]
        return [f"skipped: {', '.join(reasons)}"] if reasons else []


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
        return self.search(re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE))

    def search(self, pattern: re.Pattern[str], *, below: str = "", names: str = "*") -> Found:
        """The lines with a match, in the files below a folder whose names are like `names`.

        pattern: one of ours; nothing could stop a slow one of the model's
        Raises ToolFailed if there is no such folder, or no time.
        """
        found = Found()
        deadline = time.monotonic() + self.seconds
        for path, content in self._files(below, names, found):
            self._require_time(deadline)
            for number, line in enumerate(_lines(content), start=1):
                if number % _LINES == 0:
                    self._require_time(deadline)
                if pattern.search(line):
                    found.count += 1
                    if found.count <= _MOST_KEPT:
                        found.matches.append(Match(path, number, _shortened(line.strip())))
        if found.skipped:
            logger.info("search in %s skipped %s", self.root, found.skipped)
        return found

    def _require_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise ToolFailed(
                f"the folder is too large to search in {self.seconds:g} seconds; do without"
            )

    def _files(self, below: str, names: str, found: Found) -> Iterator[tuple[str, str]]:
        """Yield each file's path and text, empty for one that is skipped, which is counted."""

        def skip(reason: str) -> None:
            found.skipped[reason] += 1

        for entry in Tree(self.root).walk(below, closed=lambda path: skip("unreadable")):
            if entry.is_folder() or not fnmatch.fnmatch(entry.name, names):
                continue
            content = ""
            if entry.is_link():
                skip("link")
            else:
                try:
                    content = self._read(entry)
                except text.NotText as error:
                    skip(str(error))
            yield entry.path, content

    def _read(self, entry: Entry) -> str:
        try:
            opened = entry.open()
        except OSError as error:
            why = "link" if error.errno == errno.ELOOP else "unreadable"
            raise text.NotText(why) from error
        return text.read(opened, self.max_bytes)


def _lines(content: str) -> Iterator[str]:
    """As `splitlines` has them, one at a time: all of them take many times what the text does."""
    start = 0
    for end in _LINE_END.finditer(content):
        yield content[start : end.start()]
        start = end.end()
    if start < len(content):
        yield content[start:]


def _shortened(line: str) -> str:
    return line if len(line) <= _MOST_LINE_CHARS else f"{line[:_MOST_LINE_CHARS]}…"
