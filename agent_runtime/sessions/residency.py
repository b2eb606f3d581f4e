"""What this runtime believes about where sessions' heads are. A hint, never the truth.

A wrong belief costs a prefetch or a recompute, never an answer: the engine reports what it
really reused. Lost with the process, which is why any runtime may serve any session.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from engine.tags import tagged
from state_store.durability import Servers


@dataclass(frozen=True)
class Place:
    """boot_id: the engine start that holds the session; tag: the engine's name for this stay."""

    boot_id: str
    tag: str


class Residency:
    """Session id -> the engine start (boot) whose device or staging holds its head.

    held: sessions that this process had an engine keep from eviction
    """

    def __init__(self) -> None:
        self.held: set[str] = set()
        self._places: dict[str, Place] = {}
        self._written: dict[str, int] = {}
        self._servers: dict[str, Servers] = {}
        self._serial = itertools.count(1)
        self._tell: Callable[[str], None] = lambda _: None
        self._tell_where: Callable[[str, bool], None] = lambda *_: None

    def place(self, session_id: str) -> Place | None:
        return self._places.get(session_id)

    def on_device(self, session_id: str, boot_id: str) -> bool:
        place = self._places.get(session_id)
        return place is not None and place.boot_id == boot_id

    def count(self, boot_id: str) -> int:
        """Sessions whose head that engine start holds."""
        return sum(place.boot_id == boot_id for place in self._places.values())

    def placed(self, session_id: str, boot_id: str) -> None:
        if not self.on_device(session_id, boot_id):
            self._places[session_id] = Place(boot_id, tagged(session_id, next(self._serial)))
            self._tell_where(session_id, True)

    def shared(self, session_id: str, fork_id: str) -> None:
        """A fork has the same head: where that is, it is."""
        place = self.place(session_id)
        if place is not None:
            self.placed(fork_id, place.boot_id)

    def left(self, session_id: str) -> None:
        if self._places.pop(session_id, None) is not None:
            self._tell(session_id)
            self._tell_where(session_id, False)

    def when_left(self, tell: Callable[[str], None]) -> None:
        """Have `tell` called with each session that is not on a device any more."""
        self._tell = tell

    def when_moved(self, tell: Callable[[str, bool], None]) -> None:
        """Have `tell` called with each session that comes to a device (True) or leaves it."""
        self._tell_where = tell

    def sessions(self) -> set[str]:
        """That are on a device, as far as this process knows, or that it has written to since they
        were last made durable."""
        return {*self._places, *self._servers}

    def tag(self, session_id: str, boot_id: str) -> str:
        """The engine's name for this stay of the session; a new one after each suspend.

        SGLang remembers closed names, so a session that comes back needs another.
        """
        self.placed(session_id, boot_id)
        return self._places[session_id].tag

    def servers(self, session_id: str) -> Servers | None:
        """Who held the data before this process's first write to the session since the last
        suspend; None if it has written nothing."""
        return self._servers.get(session_id)

    def writing_to(self, session_id: str, servers: Servers) -> None:
        self._servers.setdefault(session_id, servers)

    def forget_servers(self, session_id: str) -> None:
        self._servers.pop(session_id, None)

    def wrote(self, session_id: str, payload_bytes: int) -> None:
        self._written[session_id] = self._written.get(session_id, 0) + payload_bytes

    def take_written(self, session_id: str) -> int:
        """Payload bytes committed since this was last asked."""
        return self._written.pop(session_id, 0)
