"""Durability levels, confirmed by the servers and never assumed.

`memory`        the server acknowledged the writes
`fsync`         they are in its append-only file on disk (see `synced.py`; Redis 7.2+ and Valkey):
                they survive a restart of that server, but not that a replica takes its place
`replicated:n`  n replicas acknowledged them (WAIT), and one of those may take its place

Both waits speak of the server that they are sent to. Writes that another one acknowledged, which
has restarted or given up its place since, may be lost although a wait succeeds; so a caller
remembers who the servers were before its first write (`watch`), and `confirm` compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from state_store.connection import Control, Master
from state_store.errors import (
    DurabilityNotReached,
    ServersChanged,
    StoreRefused,
)
from state_store.levels import parse_level
from state_store.synced import WHO, run_of, wait_until_synced

CONFIRM_TIMEOUT = 5.0  # seconds

Servers = frozenset[str]
"""Every run of every server that holds data, as master."""


async def servers(control: Control) -> Servers:
    """Who holds the data now."""
    return frozenset(map(run_of, await _who(control)))


async def watch(control: Control, level: str) -> Servers:
    """Who holds the data now; to be called before the writes that `confirm` is to speak of.
    Nobody in particular for `memory`, which promises nothing past the acknowledgement."""
    parse_level(level)
    if level == "memory":
        return frozenset()
    return await servers(control)


async def confirm(
    control: Control, prefix: str, level: str, *, since: Servers | None = None
) -> str:
    """Wait until everything acknowledged before this call, and after `since`, is durable at
    `level` on every server that holds data.

    Without `since` it speaks of what the present servers have. A wait is for writes on its own
    connection, so a marker is written on it first: a server's log is one sequence, and what came
    before the marker is confirmed with it.
    Raises DurabilityNotReached; then the writes stand at the level that it has reached. Raises
    ServersChanged, at any level, when what was written after `since` may be lost.
    """
    replicas = parse_level(level)
    if level == "memory":
        if since:
            _require_same(level, since, await _who(control))
        return level
    timeout = min(CONFIRM_TIMEOUT, control.timeout / 2)

    async def reached_by(master: Master) -> list[Any]:
        """Replicas, or 1 once it is on disk; who the server is."""
        key = f"{prefix}:durable-marker{master.tag}"
        if level == "fsync":
            return await wait_until_synced(master, key, timeout=timeout)
        wait = ("WAIT", replicas, int(timeout * 1000))
        return (await master.exchange([("INCR", key), wait, *WHO]))[1:]

    try:
        answers = await control.on_masters(reached_by)
    except StoreRefused as error:
        if since is not None:
            _require_same(level, since, await _who(control))
        reason = str(error)
        if "unknown command" in reason.lower():
            reason = "the server has no WAITAOF; Redis 7.2 or later and Valkey have it"
        raise DurabilityNotReached(f"{level} cannot be confirmed: {reason}") from error
    if since is not None:  # first: else a level could be called reached by what is lost
        _require_same(level, since, [who for _, *who in answers])
    wanted = 1 if level == "fsync" else replicas
    least = int(min(reply for reply, *_ in answers))
    if least < wanted:
        reached = "memory" if level == "fsync" or not least else f"replicated:{least}"
        raise DurabilityNotReached(
            f"{level} was not confirmed within {timeout:g} s (reached {least}); "
            f"the commit stands: {reached}.",
            reached,
        )
    return level


async def _who(control: Control) -> list[list[Any]]:
    return await control.on_masters(lambda master: master.exchange(WHO))


def _require_same(level: str, since: Servers, answers: Sequence[Sequence[Any]]) -> None:
    if not since <= {run_of(answer) for answer in answers}:
        raise ServersChanged(
            f"{level} cannot be confirmed: a server restarted or another one took its place "
            "meanwhile, and what it had not passed on is lost; read the head again."
        )
