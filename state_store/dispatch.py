"""A batch of commands, sent to where their keys are: in parallel, and again where it must be.

Several connections are served by threads, one each, not by one loop over readiness: the kernel
copies a value without holding the interpreter, so threads use as many cores as there are, and one
value stays one system call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

from state_store.errors import StoreRefused, StoreUnavailable
from state_store.nodes import Node
from state_store.resp import Command, Item, Refusal, Reply, byte_count, keyless
from state_store.routing import Router, Server, redirection

_SHARE_BYTES = 1 << 20  # a second connection is not worth a thread's wake-up for less
_THREADS = 64  # started as they are needed; what finds none free waits for one
_PAUSES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)  # seconds before another attempt; the last repeats
_PASSING = frozenset({"TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN"})
_PATIENT = frozenset({"READONLY", "NOREPLICAS"})  # pass where servers replace each other
_ASKING, _PING = keyless(b"ASKING"), keyless(b"PING")


Told = Callable[[Sequence[tuple[int, Reply]]], None]
"""Told places of items, and the reply to each."""


@dataclass
class _Share:
    """What one connection does in one round.

    places: of its items in the batch, ascending
    came:   see `Dispatcher.run`
    asking: whether its node is asked because another one says so
    """

    node: Node
    commands: Sequence[Command]
    items: Sequence[Item]
    places: Sequence[int]
    came: Told | None = None
    asking: bool = False
    replies: Sequence[Reply] = ()
    error: StoreUnavailable | None = None

    def run(self) -> None:
        commands = self.commands
        if self.asking:
            commands = [each for one in commands for each in (_ASKING, one)]
        try:
            told = None if self.came is None else self._tell
            self.replies = self.node.exchange(commands, self.items, told)
        except StoreUnavailable as error:
            self.error = error
            return
        if self.asking:
            self.replies = self.replies[1::2]

    def _tell(self, first: int, replies: Sequence[Reply]) -> None:
        assert self.came is not None, "nobody wants to be told"
        places = self.places[first : first + len(replies)]
        self.came([one for one in zip(places, replies, strict=True) if type(one[1]) is not Refusal])


@dataclass
class _Again:
    """What a round left undone, and why.

    places: of the items that are sent again, all of their commands, and in `asked` those which
            the server said to ask another one for, this time
    """

    places: list[int] = field(default_factory=list)
    asked: dict[int, Node] = field(default_factory=dict)
    moves: dict[int, Server] = field(default_factory=dict)
    reason: str = ""
    error: StoreUnavailable | None = None
    passing: bool = False  # nobody says where else to ask: it takes time
    lost: bool = False  # a server, not only a slot, was not what it should be

    def raise_reason(self, timeout: float) -> None:
        if self.error is not None:
            raise self.error
        raise StoreUnavailable(
            f"the store could not serve a command within {timeout:g} s: {self.reason}"
        )


class _Patience:
    """How long something may fail without progress: `timeout` seconds from its first failure on."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._deadline: float | None = None

    def is_over(self) -> bool:
        """To be asked at each failure."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._timeout
        return now > self._deadline

    def renew(self) -> None:
        self._deadline = None


class Dispatcher:
    """Runs batches over a router's nodes. Thread-safe.

    Servers that pass through a state (loading, resharding, failing over) are waited for, and the
    map of a cluster learned again, up to `timeout` seconds after the first failure without
    progress.
    """

    def __init__(self, router: Router, *, timeout: float, connections: int) -> None:
        self.router = router
        self._timeout = timeout
        self._connections = connections
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def close(self) -> None:
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
        self.router.close()

    def run(
        self, commands: Sequence[Command], items: Sequence[Item], came: Told | None = None
    ) -> list[Reply]:
        """The replies to each item's commands, in order; some may be refusals that waiting does
        not help.

        came: told of values that are received as they come, a few megabytes at a time, by the
        threads of all connections; of one that is read once more after a failure again, and of no
        refusal. What it raises ends the operation
        """
        replies: list[Reply] = []
        waiting: Sequence[int] = range(len(items))
        asked: dict[int, Node] = {}
        failures = 0
        patience = _Patience(self._timeout)
        while waiting:
            shares, again = self._shares(commands, items, waiting, asked, came)
            self._run(shares)
            replies = self._gather(shares, len(items), replies, again)
            if not again.places:
                break
            if len(again.places) < len(waiting):
                failures = 0
                patience.renew()
            if again.error is not None and not self.router.patient:
                raise again.error
            if patience.is_over():
                again.raise_reason(self._timeout)
            pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
            if again.passing:
                pause = max(pause, _PAUSES[1])
            time.sleep(pause)
            failures += 1
            if again.lost or again.moves:
                self.router.refresh(again.moves)
            waiting, asked = sorted(again.places), again.asked
        return replies

    def ping(self) -> None:
        """Have every node answer."""
        patience = _Patience(self._timeout)
        while True:
            try:
                for node in self.router.nodes():
                    (reply,) = node.exchange([_PING], [(b"", b"")])
                    if isinstance(reply, Refusal):
                        raise StoreRefused(f"the store refused a command: {reply.text}")
                return
            except StoreUnavailable:
                if not self.router.patient or patience.is_over():
                    raise
            time.sleep(_PAUSES[-1])
            self.router.refresh({})

    def _shares(
        self,
        commands: Sequence[Command],
        items: Sequence[Item],
        waiting: Sequence[int],
        asked: Mapping[int, Node],
        came: Told | None,
    ) -> tuple[list[_Share], _Again]:
        """Who does what in this round; items whose node is not known are done again."""
        again = _Again()
        by_node: dict[tuple[Node, bool], Sequence[int]] = {}
        if self.router.only is not None:
            by_node[self.router.only, False], waiting = waiting, ()
        for place in waiting:
            try:
                node = asked.get(place) or self.router.node_of(items[place][0])
            except StoreUnavailable as error:
                again.places.append(place)
                again.error, again.passing, again.lost = error, True, True
                continue
            cast("list[int]", by_node.setdefault((node, place in asked), [])).append(place)
        shares: list[_Share] = []
        spread = self._connections > 1 and any(one.payload for one in commands)
        for (node, asking), places in by_node.items():
            for part in self._cut(items, places) if spread else [places]:
                own = items if len(part) == len(items) else [items[place] for place in part]
                shares.append(_Share(node, commands, own, part, came, asking))
        return shares, again

    def _cut(self, items: Sequence[Item], places: Sequence[int]) -> list[list[int]]:
        """Runs of about equal bytes, one for each connection that is worth its while."""
        sizes = [byte_count(items[place][1]) for place in places]
        total = sum(sizes)
        count = max(1, min(self._connections, total // _SHARE_BYTES))
        parts: list[list[int]] = [[] for _ in range(count)]
        before = 0
        for place, size in zip(places, sizes, strict=True):
            parts[min(before * count // max(total, 1), count - 1)].append(place)
            before += size
        return [part for part in parts if part]

    def _run(self, shares: Sequence[_Share]) -> None:
        others: list[Future[None]] = []
        if len(shares) > 1:
            with self._lock:  # `close` waits for what was submitted
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(_THREADS, "torpor-bulk")
                others = [self._threads.submit(share.run) for share in shares[1:]]
        try:
            for share in shares[:1]:
                share.run()
        finally:
            # The buffers are the caller's: none may still be written to when this returns.
            errors = [other.exception() for other in others]
        for error in errors:
            if error is not None:
                raise error

    def _gather(
        self, shares: Sequence[_Share], count: int, before: list[Reply], again: _Again
    ) -> list[Reply]:
        """Replies to all `count` items: those of this round, and to the others those `before`."""
        for share in shares:
            if share.error is not None:
                again.places += share.places
                again.error, again.passing, again.lost = share.error, True, True
                continue
            each = len(share.commands)
            if any(type(reply) is Refusal for reply in share.replies):
                for number, place in enumerate(share.places):
                    replies = share.replies[number * each : (number + 1) * each]
                    if self._sent_on(place, replies, share.node, again):
                        again.places.append(place)
            if len(share.places) == count:
                return list(share.replies)
            if not before:
                before = [None] * (count * each)
            for number, place in enumerate(share.places):
                replies = share.replies[number * each : (number + 1) * each]
                before[place * each : (place + 1) * each] = replies
        return before

    def _sent_on(self, place: int, replies: Sequence[Reply], node: Node, again: _Again) -> bool:
        """Whether a reply says to send the item again, and what to know before."""
        for reply in replies:
            if not isinstance(reply, Refusal):
                continue
            if reply.code in ("MOVED", "ASK"):
                again.reason = reply.text
                slot, server = redirection(reply.text, node.name)
                if reply.code == "MOVED":
                    self.router.node_at(server)
                    again.moves[slot] = server
                else:
                    again.asked[place] = self.router.node_at(server)
                return True
            if reply.code in _PASSING or (reply.code in _PATIENT and self.router.patient):
                again.reason, again.passing = reply.text, True
                again.lost = again.lost or (self.router.patient and reply.code != "TRYAGAIN")
                return True
        return False
