"""What this runtime believes about where sessions' heads are. A hint, never the truth.

A wrong belief costs a prefetch or a recompute, never an answer: the engine reports what it
really reused. Lost with the process, which is why any runtime may serve any session. Of sessions
that were not served for long it lets go: as many as it remembers have been served since.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from engine.tags import tagged
from state_store.durability import Servers

REMEMBERED = 16384  # sessions; far more than engines hold


@dataclass(frozen=True)
class Place:
    """boot_id: the engine start that holds the session; tag: the engine's name for this stay."""

    boot_id: str
    tag: str


@dataclass
class _Known:
    """Of one session. written: payload bytes committed since the last suspend or resume"""

    place: Place | None = None
    servers: Servers | None = None
    written: int = 0


class Residency:
    """Session id -> the engine start (boot) whose device or staging holds its head.

    Some of them this process has an engine keep from eviction, for so long.
    """

    def __init__(self, *, remembered: int = REMEMBERED) -> None:
        self._held: dict[str, float] = {}  # until when, by time.monotonic()
        self._remembered = remembered
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._let_go: Servers | None = None
        self._serial = itertools.count(1)
        self._tell: Callable[[str], None] = lambda _: None
        self._tell_where: Callable[[str, bool], None] = lambda *_: None

    def place(self, session_id: str) -> Place | None:
        known = self._known.get(session_id)
        return None if known is None else known.place

    def on_device(self, session_id: str, boot_id: str) -> bool:
        place = self.place(session_id)
        return place is not None and place.boot_id == boot_id

    def count(self, boot_id: str) -> int:
        """Sessions whose head that engine start holds."""
        return self._counts[boot_id]

    def placed(self, session_id: str, boot_id: str) -> None:
        self._place(session_id, boot_id)

    def held(self, session_id: str, seconds: float) -> None:
        """An engine was told to keep the session's head for so long."""
        now = time.monotonic()
        for name in [name for name, until in self._held.items() if until <= now]:
            del self._held[name]
        self._held[session_id] = now + seconds

    def is_held(self, session_id: str) -> bool:
        return self._held.get(session_id, 0.0) > time.monotonic()

    def let_go(self, session_id: str) -> None:
        """It is not kept any more."""
        self._held.pop(session_id, None)

    def shared(self, session_id: str, fork_id: str) -> None:
        """A fork has the same head: where that is, it is."""
        place = self.place(session_id)
        if place is not None:
            self.placed(fork_id, place.boot_id)

    def left(self, session_id: str) -> None:
        known = self._known.get(session_id)
        if known is not None and known.place is not None:
            self._counted(known.place.boot_id, -1)
            known.place = None
            self._tidy(session_id)
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
        return {name for name, known in self._known.items() if known.place or known.servers}

    def tag(self, session_id: str, boot_id: str) -> str:
        """The engine's name for this stay of the session; a new one after each suspend.

        SGLang remembers closed names, so a session that comes back needs another.
        """
        return self._place(session_id, boot_id).tag

    def servers(self, session_id: str) -> Servers | None:
        """Who held the data before this process's first write to the session since the last
        suspend; None if it has written nothing. What it has let go of it may have written: that is
        as old as anything it has let go of."""
        since = self.written_since(session_id)
        return self._let_go if since is None else since

    def written_since(self, session_id: str) -> Servers | None:
        """As `servers`, of what it has not let go of."""
        known = self._known.get(session_id)
        return None if known is None else known.servers

    def writing_to(self, session_id: str, servers: Servers) -> None:
        known = self._touched(session_id)
        known.servers = known.servers or servers

    def forget_servers(self, session_id: str) -> None:
        """It has been made durable, or it was told that it cannot be."""
        if self._let_go is not None:  # which would speak for it otherwise
            self._touched(session_id).servers = frozenset()
        elif (known := self._known.get(session_id)) is not None:
            known.servers = None
            self._tidy(session_id)

    def wrote(self, session_id: str, payload_bytes: int) -> None:
        self._touched(session_id).written += payload_bytes

    def take_written(self, session_id: str) -> int:
        """Payload bytes committed since this was last asked."""
        known = self._known.get(session_id)
        if known is None:
            return 0
        written, known.written = known.written, 0
        self._tidy(session_id)
        return written

    def _place(self, session_id: str, boot_id: str) -> Place:
        known = self._touched(session_id)
        if known.place is None or known.place.boot_id != boot_id:
            if known.place is not None:
                self._counted(known.place.boot_id, -1)
            known.place = Place(boot_id, tagged(session_id, next(self._serial)))
            self._counted(boot_id, 1)
            self._tell_where(session_id, True)
        return known.place

    def _touched(self, session_id: str) -> _Known:
        known = self._known.setdefault(session_id, _Known())
        self._known.move_to_end(session_id)
        if len(self._known) > self._remembered:
            oldest = next((name for name in self._known if not self.is_held(name)), session_id)
            if oldest != session_id:
                self._let(oldest)
        return known

    def _let(self, session_id: str) -> None:
        """Go of all that is known of it."""
        self.left(session_id)
        known = self._known.pop(session_id, None)
        if known is not None and known.servers:
            self._let_go = (self._let_go or frozenset()) | known.servers

    def _tidy(self, session_id: str) -> None:
        if self._known[session_id] == _Known():
            del self._known[session_id]

    def _counted(self, boot_id: str, more: int) -> None:
        self._counts[boot_id] += more
        if not self._counts[boot_id]:
            del self._counts[boot_id]
