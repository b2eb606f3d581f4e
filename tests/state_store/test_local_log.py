"""A log on this machine is read no further than it is new, and synced once for all who wait."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace

import pytest

from state_store import local_log
from state_store.embedded import EmbeddedServer
from state_store.local_log import LocalLog
from state_store.store import StateStore
from state_store.synced import wait_until_synced

MARKER = b"123456789012345678"


@pytest.fixture
def folder(tmp_path):
    """A server's folder of logs, of which there is one."""
    made = tmp_path / "appendonlydir"
    made.mkdir()
    (made / "a.1.incr.aof").write_bytes(b"old" * (1 << 20))
    return made


@pytest.fixture
def log(folder):
    return LocalLog.at(folder)


def append(folder, data: bytes, name: str = "a.1.incr.aof") -> None:
    with (folder / name).open("ab") as file:
        file.write(data)


@pytest.fixture
def reads(monkeypatch):
    """Bytes of each read."""
    found, pread = [], os.pread

    def spy(log, count, at):
        piece = pread(log, count, at)
        found.append(len(piece))
        return piece

    monkeypatch.setattr("os.pread", spy)
    return found


async def test_only_what_is_new_of_a_log_is_read(log, folder, reads):
    for _ in range(20):
        assert not await log.has(MARKER)
    assert sum(reads) == 0
    append(folder, b"x" * 100_000)
    for _ in range(20):
        assert not await log.has(MARKER)
    assert sum(reads) <= 100_000 + 20 * len(MARKER)
    append(folder, MARKER + b"y" * 1000)
    assert await log.has(MARKER)
    assert sum(reads) <= 101_000 + 22 * len(MARKER)


async def test_a_marker_is_found_however_it_is_cut(log, folder, monkeypatch):
    monkeypatch.setattr(local_log, "_PIECE", 7)
    for at in range(len(MARKER)):
        marker = MARKER[:-2] + b"%02d" % at
        append(folder, b"x" * 5 + marker[:at])
        assert not await log.has(marker)
        append(folder, marker[at:] + b"y" * 5)
        assert await log.has(marker)


async def test_a_log_that_is_new_since_is_searched_whole_within_bounds(log, folder, monkeypatch):
    append(folder, MARKER + b"z" * 100, "a.2.incr.aof")
    assert await log.has(MARKER)
    another = LocalLog.at(folder)
    monkeypatch.setattr(local_log, "_MOST", 100)
    append(folder, MARKER + b"z" * 100, "a.3.incr.aof")
    assert not await another.has(MARKER)


async def test_a_log_that_is_gone_is_neither_searched_nor_synced(log, folder, tmp_path):
    assert LocalLog.at(tmp_path / "elsewhere") is None
    (folder / "a.1.incr.aof").unlink()
    assert not await log.has(MARKER)
    assert not await log.sync()


@pytest.fixture
def disk(monkeypatch):
    """Syncs of each log wait until they are let go."""
    return Disk(monkeypatch)


class Disk:
    def __init__(self, monkeypatch) -> None:
        self.begun: list[int] = []
        """Bytes of the log when a sync of it began."""
        self.answers = threading.Event()
        monkeypatch.setattr("os.fdatasync", self._sync)

    def _sync(self, log: int) -> None:
        self.begun.append(os.fstat(log).st_size)
        assert self.answers.wait(60)

    async def has_begun(self, syncs: int) -> None:
        while len(self.begun) < syncs:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_who_asks_during_a_sync_shares_the_next_which_begins_after_all_of_them(
    log, folder, disk
):
    first = asyncio.create_task(log.sync())
    await disk.has_begun(1)
    append(folder, b"later")
    others = [asyncio.create_task(LocalLog.at(folder).sync()) for _ in range(50)]
    await asyncio.sleep(0)
    others[0].cancel()
    disk.answers.set()
    assert await first
    assert await asyncio.gather(*others[1:]) == [True] * 49
    assert disk.begun == [3 << 20, (3 << 20) + 5]


async def test_a_silent_disk_holds_one_thread_and_no_other_log(log, disk, tmp_path, monkeypatch):
    async with asyncio.timeout(60):
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(log.sync(), 0.01)
        await disk.has_begun(1)
        other = tmp_path / "other"
        other.mkdir()
        append(other, b"x")
        monkeypatch.setattr("os.fdatasync", lambda log: None)
        assert await LocalLog.at(other).sync()
        assert not await log.has(MARKER)
        assert len(disk.begun) == 1
    disk.answers.set()


@pytest.mark.parametrize(("timeout", "most"), [(3.0, 2500), (0.3, 0)])
async def test_all_steps_together_take_no_longer_than_the_time_given(
    tmp_path, monkeypatch, timeout, most
):
    """Half a second is spent on looking; the server gets what is left."""
    monkeypatch.setattr(LocalLog, "_search", lambda log, marker: False)
    sent = []
    with EmbeddedServer(tmp_path / "own") as server:
        async with await StateStore.connect(server.url, prefix="p") as store:
            (master,) = await store._control.masters()

            async def exchange(commands):
                sent.extend(commands)
                return await master.exchange(commands)

            watched = replace(master, exchange=exchange)
            synced, *_ = await wait_until_synced(watched, "key", timeout=timeout)
    assert synced == bool(most)
    waits = [command[-1] for command in sent if command[0] == "WAITAOF"]
    assert len(waits) == bool(most)
    assert all(0 < wait <= most for wait in waits)
