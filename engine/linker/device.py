"""Where a page chain is on the device, and keeping it there, or not.

The tree's nodes are known by the hashes of their pages. Everything here runs on the scheduler's
thread, alike on all ranks (`steps.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.linker import offers
from engine.linker.room import StateRoom
from engine.linker.steps import Work


@dataclass(frozen=True)
class OnDevice:
    """pages: leading pages of the chain on the device; states: counts of leading pages, ascending,
    at which a state is there"""

    pages: int
    states: tuple[int, ...]


@dataclass(frozen=True)
class _Hold:
    node_id: int
    lock: Any
    pages: int
    until: float  # of `time.monotonic`


class Holds:
    """Page chains that are kept from eviction, by name, each for a time."""

    def __init__(self, pages: int, states: int, room: StateRoom | None = None) -> None:
        """pages, states: that the device has room for; room: for states, besides what runs"""
        self._pages = pages
        self._states = states
        self._room = room
        self._holds: dict[str, _Hold] = {}

    def hold(self, tree: Any, name: str, hashes: Sequence[str], seconds: float) -> tuple[int, str]:
        """Keep what is on the device of `hashes`; how many pages, and why not, else "".

        A hold of the same name ends. All together may keep half of the device's pages and states:
        what runs needs the rest.
        """
        self.let_go(tree, name)
        path = _path(tree, hashes)
        if not path:
            return 0, "nothing of it is on the device"
        pages = sum(len(node.hash_value) for node, _ in path)
        room = self._pages // 2 - sum(hold.pages for hold in self._holds.values())
        if pages > room or len(self._holds) >= self._states // 2:
            return 0, (
                f"{len(self._holds)} others are held, and {max(room, 0)} pages may be held besides"
            )
        if self._room is not None and not self._room.for_holding():
            return 0, (
                f"{len(self._holds)} others are held, and the requests that run need the states "
                "that are left"
            )
        node = path[-1][0]
        lock = tree.inc_lock_ref(node.id).to_dec_params()
        self._holds[name] = _Hold(node.id, lock, pages, time.monotonic() + seconds)
        self._count_states()
        return pages, ""

    def let_go(self, tree: Any, name: str) -> bool:
        """Whether there was such a hold."""
        hold = self._holds.pop(name, None)
        if hold is None:
            return False
        tree.dec_lock_ref(hold.node_id, hold.lock)
        self._count_states()
        return True

    def left(self, name: str) -> float | None:
        """Seconds that a hold still lasts; None without one. From any thread."""
        hold = self._holds.get(name)
        return None if hold is None else max(0.0, hold.until - time.monotonic())

    def due(self) -> dict[str, Work]:
        """Ends the holds whose time is over."""
        now = time.monotonic()
        over = [(name, hold) for name, hold in self._holds.items() if hold.until <= now]
        return {f"over {name}": partial(self._end, name=name, hold=hold) for name, hold in over}

    def _end(self, tree: Any, name: str, hold: _Hold) -> None:
        """Unless it was renewed in the same step."""
        if self._holds.get(name) is hold:
            self.let_go(tree, name)

    def clear(self) -> None:
        """The tree has been emptied, its locks with it."""
        self._holds.clear()
        self._count_states()

    def _count_states(self) -> None:
        if self._room is not None:
            self._room.held = len(self._holds)


def where(tree: Any, hashes: Sequence[str]) -> OnDevice:
    parts = tree.linker.cache_linker.parts
    pages, states = 0, []
    for node, matched in _path(tree, hashes):
        pages += matched
        if matched == len(node.hash_value) and parts.are_at(node):
            states.append(pages)
    return OnDevice(pages, tuple(states))


def drop(tree: Any, hashes: Sequence[str]) -> int:
    """Free what only this chain uses, its end first; pages that were freed.

    Stays: what others continue from, what runs, what is held, what is not stored (yet, or any
    more).
    """
    core, freed = tree.tree_core, 0
    tracker = dict.fromkeys(tree.tree_components, 0)
    path = _path(tree, hashes)
    offers.unmark_expired([node for node, _ in path if node.external_cache_stored])
    for node, matched in reversed(path):
        if matched < len(node.hash_value) or node.id not in core._node_arena:
            continue
        if not core._is_device_leaf(node) or not node.external_cache_stored:
            break
        tree._evict_device_leaf(node.id, tracker)
        freed += matched
    return freed


def offer(tree: Any, hashes: Sequence[str]) -> None:
    """Offload what of the chain is on the device and neither stored nor about to be: of the states
    that nobody wanted so far, the last."""
    path, linker = _path(tree, hashes), tree.linker.cache_linker
    nodes = [node for node, _ in path]
    ends = [n for n, matched in path if matched == len(n.hash_value) and linker.parts.are_at(n)]
    if ends and linker.thinning.recall(ends[-1].hash_value[-1]):
        ends[-1].external_cache_stored = False
    offers.unmark_expired([node for node in nodes if node.external_cache_stored])
    tree.linker.offload_nodes([node.id for node in nodes])


def _path(tree: Any, hashes: Sequence[str]) -> list[tuple[Any, int]]:
    """Nodes from the root along the chain, each with how many of its pages are the chain's."""
    path: list[tuple[Any, int]] = []
    node, at = tree.tree_core.root_node, 0
    while at < len(hashes):
        node = next((c for c in node.children.values() if _begins(c, hashes[at])), None)
        if node is None or node.evicted:
            break
        matched = 0
        for mine, wanted in zip(node.hash_value, hashes[at:], strict=False):
            if mine != wanted:
                break
            matched += 1
        path.append((node, matched))
        at += matched
        if matched < len(node.hash_value):
            break
    return path


def _begins(node: Any, page_hash: str) -> bool:
    return bool(node.hash_value) and node.hash_value[0] == page_hash
