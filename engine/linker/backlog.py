"""How much may wait to be stored.

A node of the tree is kept from eviction until it is stored, or until that has failed. A store that
is slow or gone must not fill the device with such nodes: beyond a bound they are not taken. Then
they stay on the device for as long as there is room, unmarked, and are offered again when their
session next settles, or at the next insert that passes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from engine.linker.index import ObjectSet
from engine.linker.offload import REMEMBERED, Rows
from engine.linker.room import StateRoom
from state_store.layout import Kind


class _Taken(NamedTuple):
    size: int
    locks_state: bool


class Backlog:
    """Bounds the offloads that are not decided. `admit`, `pop` and `clear` belong to the
    scheduler's thread, and go alike on all ranks: what they see is the same on each.

    turned_away: offloads that were not taken
    most:        (offloads, bytes) that were not decided, each at its worst
    """

    def __init__(self, count: int, size: int, room: StateRoom | None = None) -> None:
        """count: offloads; size: bytes of device memory; room: for the states among them. For want
        of the first two one offload is always taken."""
        self._count = count
        self._size = size
        self._room = room
        self._taken: deque[_Taken] = deque()
        self._missed = ObjectSet(REMEMBERED)
        self.turned_away = 0
        self.most = (0, 0)

    @property
    def waiting(self) -> tuple[int, int]:
        """(offloads, bytes) that are not decided."""
        taken = list(self._taken)
        return len(taken), sum(one.size for one in taken)

    def admit(self, rows: Sequence[Rows], size: int, *, locks_state: bool) -> bool:
        """Whether an offload of `size` bytes may be queued. locks_state: whether the node that it
        is of has a recurrent state, which is kept with it, even if it is not stored"""
        count, waiting = self.waiting
        fits = not count or (count < self._count and waiting + size <= self._size)
        if locks_state and self._room is not None:
            fits = fits and self._room.for_storing()
        for part in rows:
            (self._missed.remove if fits else self._missed.add)(part.kind, part.hashes)
        if fits:
            self._taken.append(_Taken(size, locks_state))
            self._count_states()
            self.most = max(self.most[0], count + 1), max(self.most[1], waiting + size)
        else:
            self.turned_away += 1
        return fits

    def turn_away(self, states: Sequence[str]) -> None:
        """They cannot be offered yet, and are missed by who waits for them."""
        self._missed.add("state", states)
        self.turned_away += 1

    def pop(self) -> None:
        """The oldest that was taken is decided."""
        self._taken.popleft()
        self._count_states()

    def clear(self) -> None:
        self._taken.clear()
        self._count_states()
        self._missed.clear()

    def missed(self, kind: Kind, hashes: Sequence[str]) -> int:
        """How many of `hashes` were turned away when they were last offered."""
        return sum(self._missed.has(kind, hashes))

    def _count_states(self) -> None:
        if self._room is not None:
            self._room.waiting = sum(one.locks_state for one in self._taken)
