"""The tools for the files of one workspace: list, read, search, write, edit."""

from __future__ import annotations

import difflib
import fnmatch
import re
import threading
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from tools.define import Tool, define
from tools.effects import Effect, Scope
from tools.errors import FolderMissing, ToolFailed, WorkspaceFull
from tools.file_search import Folder
from tools.workspaces import text
from tools.workspaces.tree import Tree

_MOST_LISTED = 500
_MOST_READ = 4 * 2**20  # bytes of one file
_SECONDS = 20.0

_locks: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()
_locking = threading.Lock()


def file_tools(
    workspace: Path, *, most_bytes: int = 256 * 2**20, most_files: int = 20_000
) -> list[Tool]:
    """list_files, read_file, search_files, write_file and edit_file for one workspace.

    most_bytes, most_files: what the workspace may hold after a write; folders count as files
    Paths are below the workspace, or begin with /workspace as for the commands run in it. No link
    is followed. Raises FolderMissing if `workspace` is not a folder.
    """
    if not workspace.is_dir():
        raise FolderMissing(f"the workspace {workspace} is not a folder; make one first.")
    folder = workspace.resolve()
    files = _Files(Tree(folder), most_bytes, most_files)
    here = partial(define, workspace=folder)
    return [
        here(files.list_files, effect=Effect.PURE),
        here(files.read_file, effect=Effect.PURE, rest="Read it in parts, with first and last."),
        here(files.search_files, effect=Effect.PURE, timeout=_SECONDS + 5.0),
        here(files.write_file, effect=Effect.IDEMPOTENT, scope=Scope.BRANCH),
        here(files.edit_file, effect=Effect.EFFECTFUL, scope=Scope.BRANCH),
    ]


class _Files:
    def __init__(self, tree: Tree, most_bytes: int, most_files: int) -> None:
        self._tree = tree
        self._most_bytes = most_bytes
        self._most_files = most_files
        self._changing = _lock_of(tree.root)

    def list_files(self, path: str = "", pattern: str = "*") -> str:
        """Lists all files below a folder of the workspace, with their sizes in bytes.

        Args:
            path: The folder; the whole workspace if it is left out
            pattern: Only names like this, for example *.py
        """
        lines: list[str] = []
        left_out = 0
        for entry in self._tree.walk(path):
            if entry.is_folder() or not fnmatch.fnmatch(entry.name, pattern):
                continue
            if len(lines) == _MOST_LISTED:
                left_out += 1
                continue
            what = "link" if entry.is_link() else f"{entry.stat.st_size:,}"
            lines.append(f"{entry.path} ({what})")
        if left_out:
            lines.append(f"[{left_out:,} more: name a folder or a pattern]")
        return "\n".join(lines) or "no files"

    def read_file(self, path: str, first: int = 1, last: int = 1000) -> str:
        """Reads a text file of the workspace.

        Args:
            path: For example src/main.py
            first: The first line to read, counted from 1
            last: The last line to read
        """
        lines = self._read(path).splitlines(keepends=True)
        first = max(first, 1)
        shown = lines[first - 1 : last]
        if len(shown) == len(lines):
            return "".join(shown) or "[the file is empty]"
        if not shown:
            raise ToolFailed(f"{path} has {len(lines)} lines, none from {first} to {last}")
        return f"{''.join(shown)}\n[lines {first} to {first + len(shown) - 1} of {len(lines)}]"

    def search_files(self, words: str, path: str = "", pattern: str = "*") -> str:
        """Finds the lines that hold some text, upper and lower case alike.

        Args:
            words: The text to find, as it is written; not a regular expression
            path: The folder to search; the whole workspace if it is left out
            pattern: Only files with names like this, for example *.py
        """
        if not words.strip():
            raise ToolFailed("the text to find is empty")
        looked = Folder(self._tree.root, _MOST_READ, _SECONDS).search(
            re.compile(re.escape(words), re.IGNORECASE), below=path, names=pattern
        )
        lines = [f"{one.file}:{one.line}: {one.text}" for one in looked.matches]
        if looked.count > len(lines):
            lines.append(f"[{looked.count - len(lines):,} more: search for more words]")
        return "\n".join([f"{looked.count} matches", *lines, *looked.skipped_text()])

    def write_file(self, path: str, content: str) -> str:
        """Makes a text file, or replaces all of one. Folders are made as needed.

        Args:
            path: For example src/main.py
            content: All of the new text
        """
        with self._changing:
            self._check_room(path, len(content.encode()))
            existed = text.write(self._tree, path, content)
        done = "replaced" if existed else "made"
        return f"{done} {path}: {len(content.splitlines())} lines"

    def edit_file(self, path: str, old: str, new: str, every: bool = False) -> str:
        """Replaces a piece of a text file by another.

        Args:
            path: For example src/main.py
            old: The piece as it is in the file, with all its spaces, and long enough to be there
                only once
            new: What to put there instead
            every: Replace it wherever it is, and not only once
        """
        if not old or old == new:
            raise ToolFailed("old and new must differ, and old must not be empty")
        with self._changing:
            before = self._read(path)
            count = before.count(old)
            if count == 0:
                raise ToolFailed(f"{path} does not hold the piece `old`{_nearest(before, old)}")
            if count > 1 and not every:
                raise ToolFailed(
                    f"{path} holds the piece `old` {count} times; add lines around it, or set every"
                )
            # Before it is made: a small file may become more than memory holds.
            more = count * (len(new.encode()) - len(old.encode()))
            self._check_room(path, len(before.encode()) + more)
            text.write(self._tree, path, before.replace(old, new))
        line = before[: before.index(old)].count("\n") + 1
        where = f"at line {line}" if count == 1 else f"in {count} places"
        return f"changed {path} {where}"

    def _read(self, path: str) -> str:
        with self._tree.parent(path) as (folder, name):
            opened = self._tree.open(folder, name, path)
        try:
            return text.read(opened, _MOST_READ)
        except text.NotText as error:
            what = {"binary": "is not a text file", "too large": f"is over {_MOST_READ:,} bytes"}
            raise ToolFailed(
                f"{path} {what.get(str(error), error)}; look at it with a program"
            ) from error

    def _check_room(self, path: str, size: int) -> None:
        """Whether the workspace stays within its limits with the file of so many bytes; one that
        grows no file and makes none may always be written."""
        target = self._tree.target(path)
        more = size - target.bytes
        if more <= 0 and not target.missing:
            return
        usage = self._tree.usage(most_files=self._most_files)
        if usage.bytes + more > self._most_bytes or usage.files + target.missing > self._most_files:
            raise WorkspaceFull(
                f"nothing was written: the workspace may hold {self._most_bytes:,} bytes in "
                f"{self._most_files:,} files; delete some first"
            )


def _lock_of(folder: Path) -> threading.Lock:
    """The same for all tools of a folder: two edits at once would each write what it has read."""
    with _locking:
        return _locks.setdefault(folder, threading.Lock())


def _nearest(before: str, old: str) -> str:
    """A hint at the line that is most like the first one of `old`."""
    first = next((line for line in old.splitlines() if line.strip()), "")
    lines = before.splitlines()
    near = difflib.get_close_matches(first, lines[:5000], n=1)
    return f"; line {lines.index(near[0]) + 1} is near: {near[0][:200]}" if near else ""
