"""What an engine's linkers reply to commands, all ranks together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prefetch:
    """What a prefetch found, worst rank.

    pages:  leading pages of the chain that can be restored
    state:  whether the state at the chain's end can be restored
    reason: why not everything can, None if it can
    """

    pages: int
    state: bool
    bytes_read: int
    reason: str | None


@dataclass(frozen=True)
class InPlace:
    """pages: leading pages that are in a place; states: counts of leading pages, ascending, at
    which a state is there too. On all ranks."""

    pages: int
    states: tuple[int, ...]


@dataclass(frozen=True)
class Whereabouts:
    """Where a page chain is: on the device, in the engine's host memory, and in the store or the
    archive; held_for: seconds that the device still keeps it, None if it may evict it."""

    device: InPlace
    staged: InPlace
    stored: InPlace
    held_for: float | None


@dataclass(frozen=True)
class Held:
    """pages: that are kept on the device; reason: why none are, else None"""

    pages: int
    reason: str | None


@dataclass(frozen=True)
class Settled:
    """states: counts, ascending, of leading pages that end in a restorable boundary; reason: why
    more could have been stored but was not, None if all was."""

    states: tuple[int, ...]
    reason: str | None


@dataclass(frozen=True)
class SessionWork:
    """How far the work on a session is, and what it has taken, since the engine started.

    load, prefill, offload: done and total: bytes, tokens of the prompt, objects. What is over is
    told until the next begins. Bytes and objects are of all ranks
    The others: see `engine/linker/progress.py`; tokens and requests are of the rank with most
    """

    load: tuple[int, int]
    prefill: tuple[int, int]
    offload: tuple[int, int]
    prefilled_tokens: int
    loaded_bytes: int
    offloaded_bytes: int
    failed_loads: int


def work_of(replies: Sequence[Mapping[str, Any]]) -> SessionWork:
    """Of all ranks."""

    def of_all(part: str) -> tuple[int, int]:
        done, total = (sum(reply[part][one] for reply in replies) for one in ("done", "total"))
        return done, total

    slowest = min(replies, key=lambda reply: reply["prefill"]["done"])["prefill"]
    return SessionWork(
        load=of_all("load"),
        prefill=(slowest["done"], slowest["total"]),
        offload=of_all("offload"),
        prefilled_tokens=max(reply["prefilled_tokens"] for reply in replies),
        loaded_bytes=sum(reply["loaded_bytes"] for reply in replies),
        offloaded_bytes=sum(reply["offloaded_bytes"] for reply in replies),
        failed_loads=max(reply["failed_loads"] for reply in replies),
    )


@dataclass(frozen=True)
class EngineCounts:
    """What an engine has done since its process started, and what waits.

    prefilled_tokens: computed for prompts; restored ones are not
    loaded_bytes, offloaded_bytes: of state, from the store to the device and back, of all ranks
    load_seconds, offload_seconds: that this took on the rank where it took longest
    failed_loads: of requests; failed_offloads: of batches; each of the rank with most
    waiting_bytes: to be offloaded, of all ranks
    commands: that it runs for turns at this moment: it stages or stores state, of the busiest rank
    """

    prefilled_tokens: int
    loaded_bytes: int
    offloaded_bytes: int
    load_seconds: float
    offload_seconds: float
    failed_loads: int
    failed_offloads: int
    waiting_bytes: int
    commands: int


def counts_of(replies: Sequence[Mapping[str, Any]]) -> EngineCounts:
    """Of all ranks. Raises KeyError, TypeError or ValueError for what an engine of another version
    replies."""

    def most(name: str) -> float:
        return max(float(reply[name]) for reply in replies)

    def together(name: str) -> int:
        return sum(int(reply[name]) for reply in replies)

    return EngineCounts(
        prefilled_tokens=int(most("prefilled_tokens")),
        loaded_bytes=together("bytes_loaded"),
        offloaded_bytes=together("bytes_written"),
        load_seconds=most("load_seconds"),
        offload_seconds=most("offload_seconds"),
        failed_loads=int(most("load_failures")),
        failed_offloads=int(most("offload_failures")),
        waiting_bytes=together("offload_bytes_waiting"),
        commands=int(most("commands_running")),
    )


def settled_of(replies: Sequence[Mapping[str, Any]], hashes: Sequence[str]) -> Settled:
    """On all ranks."""
    reason = None
    failed = sum(reply["failed"] for reply in replies)
    turned_away = sum(reply["turned_away"] for reply in replies)
    if turned_away:
        reason = (
            f"{turned_away} objects were not taken, because too much waits for the store; the "
            "next turn offers them again"
        )
    elif refused := next((reply["refused"] for reply in replies if reply.get("refused")), None):
        reason = refused
    elif failed:
        reason = f"{failed} objects could not be written to the store"
    elif not all(reply["settled"] for reply in replies):
        reason = "the engine had not written everything in time"
    whole = min(
        reply["kv"].index(False) if False in reply["kv"] else len(hashes) for reply in replies
    )
    states = tuple(
        pages + 1 for pages in range(whole) if all(reply["state"][pages] for reply in replies)
    )
    return Settled(states, reason)


def in_place(place: str, replies: Sequence[Mapping[str, Any]], *, since: int) -> InPlace:
    """On all ranks. place: `device`, `staged` or `stored`; since: pages before what is told"""
    kv = [all(found) for found in zip(*(r[place]["kv"] for r in replies), strict=True)]
    state = [all(found) for found in zip(*(r[place]["state"] for r in replies), strict=True)]
    pages = kv.index(False) if False in kv else len(kv)
    return InPlace(since + pages, tuple(since + at + 1 for at in range(pages) if state[at]))
