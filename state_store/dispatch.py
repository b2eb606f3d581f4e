"""A batch of commands, sent to where their keys are: in parallel, and again where it must be.

Several connections are served by threads, one each, not by one loop over readiness: the kernel
copies a value without holding the interpreter, so threads use as many cores as there are, and one
value stays one system call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from state_store.errors import StoreRefused, StoreUnavailable
from state_store.nodes import Node
from state_store.resp import Refusal, Reply, Request
from state_store.routing import Router, Server, redirection

_SHARE_BYTES = 1 << 20  # a second connection is not worth a thread's wake-up for less
_THREADS = 64  # started as they are needed; what finds none free waits for one
_PAUSES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)  # seconds before another attempt; the last repeats
_PASSING = frozenset({"TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN"})
_ASKING, _PING = Request(b"*1\r\n$6\r\nASKING\r\n"), Request(b"*1\r\n$4\r\nPING\r\n")


@dataclass(slots=True)
class Task:
    """Commands for one key, in order. All are sent again if one was sent to the wrong place."""

    key: bytes
    requests: Sequence[Request]
    replies: Sequence[Reply] = ()
    asked: Node | None = None  # where the server said to ask this time

    @property
    def payload_bytes(self) -> int:
        return sum(request.payload_bytes for request in self.requests)


@dataclass
class _Share:
    """What one connection does in one round."""

    node: Node
    tasks: list[Task]
    asking: bool
    error: StoreUnavailable | None = None
    refused: bool = False  # whether a reply is a refusal

    def run(self) -> None:
        requests = [request for task in self.tasks for request in task.requests]
        if self.asking:
            requests = [r for request in requests for r in (_ASKING, request)]
        try:
            replies = self.node.exchange(requests)
        except StoreUnavailable as error:
            self.error = error
            return
        if self.asking:
            replies = replies[1::2]
        self.refused = any(type(reply) is Refusal for reply in replies)
        if len(replies) == len(self.tasks):
            for task, reply in zip(self.tasks, replies, strict=True):
                task.replies = (reply,)
            return
        at = 0
        for task in self.tasks:
            task.replies = replies[at : at + len(task.requests)]
            at += len(task.requests)


@dataclass
class _Again:
    """What a round left undone, and why."""

    tasks: list[Task] = field(default_factory=list)
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


class Dispatcher:
    """Runs batches over a router's nodes. Thread-safe.

    Servers that pass through a state (loading, resharding, failing over) are waited for up to
    `timeout` seconds without progress.
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

    def run(self, tasks: Sequence[Task]) -> None:
        """Fill in every task's replies; those may be refusals that waiting does not help."""
        waiting = list(tasks)
        failures = 0
        deadline = time.monotonic() + self._timeout
        while waiting:
            again = self._round(waiting)
            if not again.tasks:
                return
            if len(again.tasks) < len(waiting):
                failures, deadline = 0, time.monotonic() + self._timeout
            if again.error is not None and not self.router.patient:
                raise again.error
            if time.monotonic() > deadline:
                again.raise_reason(self._timeout)
            pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
            if again.passing:
                pause = max(pause, _PAUSES[1])
            time.sleep(pause)
            failures += 1
            if again.lost or again.moves:
                self.router.refresh(again.moves)
            waiting = again.tasks

    def ping(self) -> None:
        """Have every node answer."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                for node in self.router.nodes():
                    (reply,) = node.exchange([_PING])
                    if isinstance(reply, Refusal):
                        raise StoreRefused(f"the store refused a command: {reply.text}")
                return
            except StoreUnavailable:
                if not self.router.patient or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSES[-1])
            self.router.refresh({})

    def _round(self, tasks: Sequence[Task]) -> _Again:
        again = _Again()
        shares = self._shares(tasks, again)
        self._run(shares)
        for share in shares:
            if share.error is not None:
                again.tasks += share.tasks
                again.error, again.passing, again.lost = share.error, True, True
                continue
            for task in share.tasks if share.refused else ():
                if self._sent_on(task, share.node, again):
                    again.tasks.append(task)
        return again

    def _shares(self, tasks: Sequence[Task], again: _Again) -> list[_Share]:
        """Who does what in this round; tasks whose node is not known go to `again`."""
        by_node: dict[tuple[Node, bool], list[Task]] = {}
        if self.router.only is not None:
            by_node[self.router.only, False], tasks = list(tasks), ()
        for task in tasks:
            asked, task.asked = task.asked, None
            try:
                node = asked or self.router.node_of(task.key)
            except StoreUnavailable as error:
                again.tasks.append(task)
                again.error, again.passing, again.lost = error, True, True
                continue
            by_node.setdefault((node, asked is not None), []).append(task)
        shares: list[_Share] = []
        for (node, asking), members in by_node.items():
            parts = [members] if self._connections == 1 else self._cut(members)
            shares += [_Share(node, part, asking) for part in parts if part]
        return shares

    def _cut(self, tasks: list[Task]) -> list[list[Task]]:
        """Runs of about equal bytes, one for each connection that is worth its while."""
        total = sum(task.payload_bytes for task in tasks)
        count = max(1, min(self._connections, total // _SHARE_BYTES))
        parts: list[list[Task]] = [[] for _ in range(count)]
        before = 0
        for task in tasks:
            parts[min(before * count // max(total, 1), count - 1)].append(task)
            before += task.payload_bytes
        return parts

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

    def _sent_on(self, task: Task, node: Node, again: _Again) -> bool:
        """Whether a reply says to send the task again, and what to know before."""
        for reply in task.replies:
            if not isinstance(reply, Refusal):
                continue
            if reply.code in ("MOVED", "ASK"):
                again.reason = reply.text
                slot, server = redirection(reply.text, node.name)
                if reply.code == "MOVED":
                    self.router.node_at(server)
                    again.moves[slot] = server
                else:
                    task.asked = self.router.node_at(server)
                return True
            if reply.code in _PASSING or (reply.code == "READONLY" and self.router.patient):
                again.reason, again.passing = reply.text, True
                again.lost = again.lost or (self.router.patient and reply.code != "TRYAGAIN")
                return True
        return False
