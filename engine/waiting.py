"""Waiting for what an engine gives, and for its end, at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from engine.errors import EngineUnreachable

WATCH = 1.0  # seconds between looks at an engine that something is waiting for

_T = TypeVar("_T")


async def unless_gone(wanted: Coroutine[Any, Any, _T], ends: Callable[[], Awaitable[str]]) -> _T:
    """What `wanted` gives; EngineUnreachable with what `ends` says if that is first. `ends` is
    asked only if it takes a while: this is done for every chunk of an answer, so what comes soon
    costs no task."""
    loop = asyncio.get_running_loop()
    watching: list[asyncio.Task[str]] = []
    done = False

    async def watch() -> str:
        try:
            return await ends()
        finally:
            if not done:
                limit.reschedule(loop.time())

    asking = loop.call_later(WATCH, lambda: watching.append(asyncio.create_task(watch())))
    try:
        async with asyncio.timeout(None) as limit:
            return await wanted
    except TimeoutError:
        if not limit.expired():
            raise  # one of its own
        raise EngineUnreachable(watching[0].result()) from None
    finally:
        done = True
        asking.cancel()
        for task in watching:
            task.cancel()
            await asyncio.wait({task})
