"""Ledgers that need nothing but a process or a file; the one in the store is
`agent_runtime.sessions.ledger`."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import threading
import zlib
from pathlib import Path
from typing import Any, Self

from tools.effects import Entry, State
from tools.errors import LedgerDamaged, LedgerHeld

logger = logging.getLogger(__name__)


class MemoryLedger:
    """Lives as long as the process. Branches are told by `fork`."""

    def __init__(self) -> None:
        self._book = _Book()

    async def find(self, entry: Entry) -> Entry | None:
        return self._book.get(entry)

    async def begin(self, entry: Entry) -> Entry | None:
        known = self._book.get(entry)
        if known is None:
            self._book.put(entry)
        return known

    async def end(self, entry: Entry) -> None:
        self._book.put(entry)

    async def fork(self, branch: str, parent: str) -> None:
        """`branch` is new, and inherits what `parent` has started until now."""
        self._book.fork(branch, parent)

    async def inherited(self, entry: Entry) -> list[Entry]:
        return self._book.inherited(entry)


class FileLedger:
    """One file that lines are appended to, each on the disk before the call goes on.

        with FileLedger(path) as ledger: ...

    Every line has a checksum. A last line that a crash has cut off never counted; anything else
    that cannot be read raises LedgerDamaged. Raises LedgerHeld while another has the file open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._book = _Book()
        self._begin_or_fork = asyncio.Lock()
        self._writing = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._size = self._open()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    async def find(self, entry: Entry) -> Entry | None:
        return self._book.get(entry)

    async def begin(self, entry: Entry) -> Entry | None:
        async with self._begin_or_fork:
            known = self._book.get(entry)
            if known is None:
                await self._append({"entry": entry.model_dump(mode="json")})
                self._book.put(entry)
        return known

    async def end(self, entry: Entry) -> None:
        self._book.put(entry)  # it is true, also if it cannot be written
        await self._append({"entry": entry.model_dump(mode="json")})

    async def fork(self, branch: str, parent: str) -> None:
        """See `MemoryLedger.fork`."""
        async with self._begin_or_fork:
            await self._append({"fork": [branch, parent]})
            self._book.fork(branch, parent)

    async def inherited(self, entry: Entry) -> list[Entry]:
        return self._book.inherited(entry)

    def _open(self) -> int:
        """Read what is there; its size in bytes."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LedgerHeld(
                f"{self._path} is open already; end the other process, or use another file."
            ) from error
        written = self._path.read_bytes()
        size = written.rfind(b"\n") + 1
        for number, line in enumerate(written[:size].splitlines(), start=1):
            try:
                self._replay(line)
            except (ValueError, KeyError, TypeError) as error:
                raise LedgerDamaged(
                    f"line {number} of {self._path} cannot be read ({error}); nothing was changed. "
                    "Effects that it names may have happened: restore the file from a copy, or "
                    "move it away and look at what was done."
                ) from error
        if size < len(written):
            logger.warning("%s ended in a line cut off by a crash: dropped", self._path)
            os.ftruncate(self._fd, size)
        os.fsync(self._fd)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # so that a new file's name is on the disk, too
        finally:
            os.close(folder)
        return size

    def _replay(self, line: bytes) -> None:
        checksum, _, body = line.partition(b" ")
        if int(checksum, 16) != zlib.crc32(body):
            raise ValueError("its checksum is wrong")
        record = json.loads(body)
        if "fork" in record:
            branch, parent = record["fork"]
            self._book.fork(branch, parent)
        else:
            self._book.put(Entry.model_validate(record["entry"]))

    async def _append(self, record: dict[str, Any]) -> None:
        body = json.dumps(record, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        await asyncio.to_thread(self._write, line)

    def _write(self, line: bytes) -> None:
        with self._writing:
            try:
                while line:  # a full disk takes a part, and refuses the rest
                    line = line[os.write(self._fd, line) :]
                os.fsync(self._fd)
                self._size = os.fstat(self._fd).st_size
            except OSError:
                os.ftruncate(self._fd, self._size)  # half a line would damage the next one
                raise


class _Book:
    """All entries, in the order they were started, and how many of them a fork inherits."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        self._forks: dict[str, tuple[str, int]] = {}

    def get(self, entry: Entry) -> Entry | None:
        return self._entries.get((entry.branch, entry.call_id))

    def put(self, entry: Entry) -> None:
        known = self.get(entry)
        if known is None or known.state is not State.DONE:
            self._entries[entry.branch, entry.call_id] = entry

    def fork(self, branch: str, parent: str) -> None:
        self._forks.setdefault(branch, (parent, len(self._entries)))

    def inherited(self, entry: Entry) -> list[Entry]:
        _, began = self._forks.get(entry.branch, ("", 0))
        before: dict[str, int] = {}
        branch, count = entry.branch, len(self._entries)
        while branch in self._forks:
            branch, at = self._forks[branch]
            if branch in before:
                break
            before[branch] = count = min(count, at)
        return [
            other
            for number, other in enumerate(self._entries.values())
            if other.branch != entry.branch
            and other.does_what(entry)
            and number < (began if other.call_id == entry.call_id else before.get(other.branch, 0))
        ]
