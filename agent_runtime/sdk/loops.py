"""Coroutines for callers that do not await: an event loop in another thread does their work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, Self, TypeVar

_T = TypeVar("_T")


def run_in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`, which the loop of another thread does; whoever interrupts the wait
    cancels it."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def each_in(loop: asyncio.AbstractEventLoop, items: AsyncGenerator[_T]) -> Generator[_T]:
    """What `items` yields, as it comes. Closed when the caller stops early."""
    try:
        while True:
            try:
                item = run_in(loop, anext(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        run_in(loop, items.aclose())


class LoopThread:
    """An event loop in a thread, for callers that have none. Use as a context manager."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.loop.shutdown_asyncgens())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return run_in(self.loop, work)

    def each(self, items: AsyncGenerator[_T]) -> Generator[_T]:
        return each_in(self.loop, items)
