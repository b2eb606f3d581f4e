"""The client of the runtime for code that does not await.

    with TorporSync("http://127.0.0.1:8700") as torpor:
        session = torpor.create(system="You are an agent.")
        print(torpor.turn(session.id, "What is 48 * 17?").text)

Every method is the one of `Torpor`, run to its end by an event loop in a thread of its own. So it
works where a loop runs already, in notebooks too; inside a coroutine it would block that loop.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from agent_runtime.sdk import Torpor
from agent_runtime.sdk.ledger import SessionLedger
from agent_runtime.sdk.loops import LoopThread
from tools.effects import Entry

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _ended(
    method: Callable[Concatenate[Torpor, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[TorporSync, _P], _T]:
    @functools.wraps(method)
    def call(self: TorporSync, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self.thread.run(method(self.torpor, *args, **kwargs))

    return call


def _streamed(
    method: Callable[Concatenate[Torpor, _P], AsyncGenerator[_T]],
) -> Callable[Concatenate[TorporSync, _P], Generator[_T]]:
    @functools.wraps(method)
    def call(self: TorporSync, /, *args: _P.args, **kwargs: _P.kwargs) -> Generator[_T]:
        return self.thread.each(method(self.torpor, *args, **kwargs))

    return call


class TorporSync:
    """One runtime, by its URL. Use as a context manager."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 600.0) -> None:
        """timeout: seconds"""
        self.torpor = Torpor(url, api_key=api_key, timeout=timeout)
        self.thread = LoopThread()

    def __enter__(self) -> Self:
        self.thread.__enter__()
        self.thread.run(self.torpor.__aenter__())
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self.thread.run(self.torpor.__aexit__(*raised))
        finally:
            self.thread.__exit__(*raised)

    @property
    def ledger(self) -> SyncLedger:
        """What the tools of its sessions have done, as `Torpor.ledger` has it."""
        return SyncLedger(self.torpor.ledger, self.thread)

    create = _ended(Torpor.create)
    get = _ended(Torpor.get)
    sessions = _streamed(Torpor.sessions)
    set_labels = _ended(Torpor.set_labels)
    snapshot = _ended(Torpor.snapshot)
    label_snapshot = _ended(Torpor.label_snapshot)
    find_snapshots = _streamed(Torpor.find_snapshots)
    whereabouts = _ended(Torpor.whereabouts)
    snapshots = _ended(Torpor.snapshots)
    stream = _streamed(Torpor.stream)
    turn = _ended(Torpor.turn)
    converse_stream = _streamed(Torpor.converse_stream)
    converse = _ended(Torpor.converse)
    suspend = _ended(Torpor.suspend)
    resume = _ended(Torpor.resume)
    persist = _ended(Torpor.persist)
    hold = _ended(Torpor.hold)
    release = _ended(Torpor.release)
    drop = _ended(Torpor.drop)
    resume_turn = _streamed(Torpor.resume_turn)
    cancel = _ended(Torpor.cancel)
    events = _streamed(Torpor.events)
    fork = _ended(Torpor.fork)
    forks = _ended(Torpor.forks)
    rewind = _ended(Torpor.rewind)
    diff = _ended(Torpor.diff)
    tree = _ended(Torpor.tree)
    export = _ended(Torpor.export)
    messages = _ended(Torpor.messages)
    import_session = _ended(Torpor.import_session)
    delete = _ended(Torpor.delete)
    items = _ended(Torpor.items)
    add_items = _ended(Torpor.add_items)
    pop_item = _ended(Torpor.pop_item)
    clear_items = _ended(Torpor.clear_items)
    scheduling = _ended(Torpor.scheduling)
    health = _ended(Torpor.health)


class SyncLedger:
    """Its methods are those of `SessionLedger`."""

    def __init__(self, ledger: SessionLedger, thread: LoopThread) -> None:
        self._ledger = ledger
        self._thread = thread

    def find(self, entry: Entry) -> Entry | None:
        return self._thread.run(self._ledger.find(entry))

    def begin(self, entry: Entry) -> Entry | None:
        return self._thread.run(self._ledger.begin(entry))

    def end(self, entry: Entry) -> None:
        self._thread.run(self._ledger.end(entry))

    def inherited(self, entry: Entry) -> list[Entry]:
        return self._thread.run(self._ledger.inherited(entry))

    def of(self, session_id: str, *, lineage: bool = False) -> list[Entry]:
        return self._thread.run(self._ledger.of(session_id, lineage=lineage))
