"""Waiting until a server's append-only file is on disk.

`WAITAOF` says when. Under `appendfsync everysec` Valkey, and Redis before 8.0, say so too early:
what is written to the file counts as synced (mended in Redis by redis/redis#13793). On those
servers

    the log is on this machine     we sync it ourselves: a marker that was just written is found at
                                   its end, so it is that server's log, and whole up to there
    elsewhere                      we wait past the server's next sync
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import ResponseError

from state_store.connection import Master

WHO = (("INFO", "server"), ("INFO", "replication"))
_EARLY = (
    (7, 2),
    (8, 0),
)  # Redis from the first version to before the second; Valkey calls itself 7.2
_EVERYSEC = 1.2  # seconds after which a server has begun to sync what is in its file now
_LOOK = 0.5  # seconds in which a marker is looked for: a server may still have it in its buffer
_POLL = 0.01
_ENDS = (1 << 16, 1 << 20, 1 << 27)  # bytes of a log's end that are searched, in turn


async def wait_until_synced(master: Master, key: str, *, timeout: float) -> list[Any]:
    """Wait until all that `master` acknowledged before this call is synced to disk; the replies
    to WHO, and before them whether it is.

    key: of a marker, which is overwritten; timeout: seconds
    Raises as `master.exchange`; ResponseError too if the server has no WAITAOF.
    """
    give_up_at = time.monotonic() + timeout
    marker = str(secrets.randbits(60))
    _, *who = await master.exchange([("SET", key, marker), *WHO])
    is_early = _EARLY[0] <= _version(who[0]) < _EARLY[1]
    if is_early and await _sync_here(master, marker.encode(), give_up_at):
        return [True, *who]
    wait = ("WAITAOF", 1, 0, int(timeout * 1000))
    _, (synced, _), *who = await master.exchange([("INCR", key), wait, *WHO])
    if synced and is_early:
        synced = await _outwait(master, give_up_at)
        who = await master.exchange(WHO)
    return [bool(synced), *who]


def _version(server: Mapping[str, Any]) -> tuple[int, ...]:
    major, minor, *_ = server["redis_version"].split(".")
    return int(major), int(minor)


async def _sync_here(master: Master, marker: bytes, give_up_at: float) -> bool:
    """Sync the log that ends in `marker`, if it is on this machine and the server syncs it every
    second; False if not, or if the disk takes too long."""
    try:
        asked = ("CONFIG GET", "appendfsync", "dir", "appenddirname")
        (config,) = await master.exchange([asked])
    except ResponseError:  # we may not ask
        return False
    if config.get("appendfsync") != "everysec":
        return False
    folder = Path(config["dir"]) / config["appenddirname"]
    found_by = min(give_up_at, time.monotonic() + _LOOK)
    while folder.is_dir():
        syncing = asyncio.to_thread(_sync, folder, marker)
        try:
            if await asyncio.wait_for(syncing, max(0.0, give_up_at - time.monotonic())):
                return True
        except TimeoutError:
            break
        if time.monotonic() > found_by:
            break
        await asyncio.sleep(_POLL)
    return False


def _sync(folder: Path, marker: bytes) -> bool:
    """A log that is being rewritten is two files for a while, the older one not synced yet."""
    with contextlib.ExitStack() as opened:
        try:
            logs = [opened.enter_context(path.open("rb")) for path in folder.glob("*.incr.aof")]
            if not any(_ends_in(log.fileno(), marker) for log in logs):
                return False
            for log in logs:
                os.fdatasync(log.fileno())
        except OSError:  # it is not ours to read, or was rewritten just now
            return False
    return True


def _ends_in(log: int, marker: bytes) -> bool:
    size = os.fstat(log).st_size
    return any(marker in os.pread(log, end, max(0, size - end)) for end in _ENDS)


async def _outwait(master: Master, give_up_at: float) -> bool:
    """Wait until a sync has ended that began after now; False if that is too late."""
    if not await _until(master, "aof_buffer_length", give_up_at):
        return False
    await asyncio.sleep(_EVERYSEC)
    return await _until(master, "aof_pending_bio_fsync", give_up_at)


async def _until(master: Master, field: str, give_up_at: float) -> bool:
    """Wait until that of the server's log is 0; False if that is too late."""
    while True:
        (log,) = await master.exchange([("INFO", "persistence")])
        if time.monotonic() > give_up_at:
            return False
        if not log.get(field, 0):
            return True
        await asyncio.sleep(_POLL)


def run_of(answers: Sequence[Any]) -> str:
    """One run of one server as master, from its replies to WHO: a restart or a change of roles
    makes another one."""
    server, replication = answers
    return f"{server['run_id']} {replication['master_replid']} {replication['role']}"
