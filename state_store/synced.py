"""Waiting until a server's append-only file is on disk.

`WAITAOF` says when. Under `appendfsync everysec` Valkey, and Redis before 8.0, say so too early:
what is written to the file counts as synced (mended in Redis by redis/redis#13793). On those
servers

    the log is on this machine     we sync it ourselves: a marker that was just written is found in
                                   what is new of it, so it is that server's log, and whole up to
                                   there
    elsewhere                      we wait past the server's next sync
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import ResponseError

from state_store.local_log import LocalLog
from state_store.masters import Master

WHO = (("INFO", "server"), ("INFO", "replication"))
_EARLY = (
    (7, 2),
    (8, 0),
)  # Redis from the first version to before the second; Valkey calls itself 7.2
_EVERYSEC = 1.2  # seconds after which a server has begun to sync what is in its file now
_LOOK = 0.5  # seconds in which a marker is looked for: a server may still have it in its buffer
_POLL = 0.01


async def wait_until_synced(master: Master, key: str, *, timeout: float) -> list[Any]:
    """Wait until all that `master` acknowledged before this call is synced to disk; the replies
    to WHO, and before them whether it is.

    key: of a marker, which is overwritten; timeout: seconds, for all steps together
    Raises as `master.exchange`; ResponseError too if the server has no WAITAOF.
    """
    give_up_at = time.monotonic() + timeout
    log = await _log_here(master)
    marker = str(secrets.randbits(60))
    _, *who = await master.exchange([("SET", key, marker), *WHO])
    is_early = _EARLY[0] <= _version(who[0]) < _EARLY[1]
    if is_early and log is not None and await _sync_here(log, marker.encode(), give_up_at):
        return [True, *who]
    left = int((give_up_at - time.monotonic()) * 1000)
    if left <= 0:  # to WAITAOF, 0 is for ever
        return [False, *who]
    _, (synced, _), *who = await master.exchange([("INCR", key), ("WAITAOF", 1, 0, left), *WHO])
    if synced and is_early:
        synced = await _outwait(master, give_up_at)
        who = await master.exchange(WHO)
    return [bool(synced), *who]


async def _log_here(master: Master) -> LocalLog | None:
    """Its log, if it may be one on this machine and the server syncs it every second."""
    try:
        asked = ("CONFIG GET", "appendfsync", "dir", "appenddirname")
        (config,) = await master.exchange([asked])
    except ResponseError:  # we may not ask
        return None
    if config.get("appendfsync") != "everysec":
        return None
    return LocalLog.at(Path(config["dir"]) / config["appenddirname"])


def _version(server: Mapping[str, Any]) -> tuple[int, ...]:
    major, minor, *_ = server["redis_version"].split(".")
    return int(major), int(minor)


async def _sync_here(log: LocalLog, marker: bytes, give_up_at: float) -> bool:
    """Sync the log if `marker` is in it, which was written after `log` was made; False if it is
    not, or if the disk takes too long."""
    found_by = min(give_up_at, time.monotonic() + _LOOK)
    try:
        async with asyncio.timeout(give_up_at - time.monotonic()):
            while not await log.has(marker):
                if time.monotonic() > found_by:
                    return False
                await asyncio.sleep(_POLL)
            return await log.sync()
    except TimeoutError:
        return False


async def _outwait(master: Master, give_up_at: float) -> bool:
    """Wait until a sync has ended that began after now; False if that is too late."""
    if not await _until(master, "aof_buffer_length", give_up_at):
        return False
    if time.monotonic() + _EVERYSEC > give_up_at:
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
