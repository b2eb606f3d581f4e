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
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from agent_runtime.sdk import Torpor
from agent_runtime.sdk.ledger import SessionLedger
from agent_runtime.sdk.loops import LoopThread
from agent_runtime.sdk.tenants import TenantsClient

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Client = TypeVar("_Client")


class _Blocking(Generic[_Client]):
    def __init__(self, client: _Client, thread: LoopThread) -> None:
        """client: which awaits; thread: where it does"""
        self.client = client
        self.thread = thread


def _ended(
    method: Callable[Concatenate[_Client, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_Blocking[_Client], _P], _T]:
    @functools.wraps(method)
    def call(self: _Blocking[_Client], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self.thread.run(method(self.client, *args, **kwargs))

    return call


def _streamed(
    method: Callable[Concatenate[_Client, _P], AsyncGenerator[_T]],
) -> Callable[Concatenate[_Blocking[_Client], _P], Generator[_T]]:
    @functools.wraps(method)
    def call(self: _Blocking[_Client], /, *args: _P.args, **kwargs: _P.kwargs) -> Generator[_T]:
        return self.thread.each(method(self.client, *args, **kwargs))

    return call


class LedgerSync(_Blocking[SessionLedger]):
    """As `SessionLedger`."""

    find = _ended(SessionLedger.find)
    begin = _ended(SessionLedger.begin)
    end = _ended(SessionLedger.end)
    inherited = _ended(SessionLedger.inherited)
    of = _ended(SessionLedger.of)


class TenantsSync(_Blocking[TenantsClient]):
    """As `TenantsClient`, for who runs the service."""

    all = _streamed(TenantsClient.all)
    usage = _ended(TenantsClient.usage)
    quota = _ended(TenantsClient.quota)
    set_quota = _ended(TenantsClient.set_quota)


class TorporSync(_Blocking[Torpor]):
    """One runtime, by its URL. Use as a context manager."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 600.0) -> None:
        """timeout: seconds"""
        super().__init__(Torpor(url, api_key=api_key, timeout=timeout), LoopThread())

    def __enter__(self) -> Self:
        self.thread.__enter__()
        self.thread.run(self.client.__aenter__())
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self.thread.run(self.client.__aexit__(*raised))
        finally:
            self.thread.__exit__(*raised)

    @property
    def ledger(self) -> LedgerSync:
        """What the tools of its sessions have done, as `Torpor.ledger` has it."""
        return LedgerSync(self.client.ledger, self.thread)

    @property
    def tenants(self) -> TenantsSync:
        """As `Torpor.tenants`."""
        return TenantsSync(self.client.tenants, self.thread)

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
    tree = _streamed(Torpor.tree)
    export = _ended(Torpor.export)
    messages = _streamed(Torpor.messages)
    import_session = _ended(Torpor.import_session)
    delete = _ended(Torpor.delete)
    items = _ended(Torpor.items)
    add_items = _ended(Torpor.add_items)
    pop_item = _ended(Torpor.pop_item)
    clear_items = _ended(Torpor.clear_items)
    scheduling = _ended(Torpor.scheduling)
    health = _ended(Torpor.health)
