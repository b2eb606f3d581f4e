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

from state_store.connection import Command, Control
from state_store.errors import (
    DurabilityNotReached,
    ServersChanged,
    StoreRefused,
)
from state_store.levels import parse_level
from state_store.masters import Master
from state_store.synced import WHO, run_of, wait_until_synced

CONFIRM_TIMEOUT = 5.0  # seconds

Servers = frozenset[str]
"""Every run of every server that holds data, as master."""


async def servers(control: Control) -> Servers:
    """Who holds the data now."""
    answers = await control.on_masters(lambda master: master.exchange(WHO))
    return frozenset(map(run_of, answers))


async def with_servers(control: Control, commands: Sequence[Command]) -> tuple[list[Any], Servers]:
    """Replies to the commands, and who holds the data once they are done; of one server, in the
    same round trip."""
    if control.is_cluster:
        return await control.exchange(commands), await servers(control)
    *replies, server, replication = await control.exchange(commands, WHO)
    return replies, frozenset([run_of((server, replication))])


async def watch(control: Control, level: str) -> Servers:
    """Who holds the data now; to be called before the writes that `confirm` is to speak of.
    Nobody in particular for `memory`, which promises nothing past the acknowledgement."""
    parse_level(level)
    if level == "memory":
        return frozenset()
    return await servers(control)


async def confirm(
    control: Control,
    prefix: str,
    level: str,
    *,
    since: Servers | None = None,
    now: Servers | None = None,
) -> str:
    """Wait until everything acknowledged before this call, and after `since`, is durable at
    `level` on every server that holds data.

    now: who they are, asked behind those writes already

    Without `since` it speaks of what the present servers have. A wait is for writes on its own
    connection, so a marker is written on it first: a server's log is one sequence, and what came
    before the marker is confirmed with it.
    Raises DurabilityNotReached; then the writes stand at the level that it has reached. Raises
    ServersChanged, at any level, when what was written after `since` may be lost.
    """
    replicas = parse_level(level)
    if level == "memory":
        if since:
            _require_same(level, since, await servers(control) if now is None else now)
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
            _require_same(level, since, await servers(control))
        reason = str(error)
        if "unknown command" in reason.lower():
            reason = "the server has no WAITAOF; Redis 7.2 or later and Valkey have it"
        raise DurabilityNotReached(f"{level} cannot be confirmed: {reason}") from error
    if since is not None:  # first: else a level could be called reached by what is lost
        _require_same(level, since, frozenset(run_of(who) for _, *who in answers))
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


def _require_same(level: str, since: Servers, now: Servers) -> None:
    if not since <= now:
        raise ServersChanged(
            f"{level} cannot be confirmed: a server restarted or another one took its place "
            "meanwhile, and what it had not passed on is lost; read the head again."
        )
