"""What engines count themselves, told by every runtime under the engine's id.

An engine counts since its process started; here each of its numbers goes on from there, so that a
runtime that was started later tells the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from typing import NamedTuple

from agent_runtime.http.instruments import Instruments
from engine.client import Load
from engine.errors import EngineError
from engine.pool import Engine
from engine.replies import EngineCounts
from state_store.errors import StoreError

logger = logging.getLogger(__name__)

_PATIENCE = 2.0  # seconds that one engine may take; who asks for the metrics waits for it
_FORGET = 86400.0  # seconds after which an engine's heartbeat is not expected back


class _Look(NamedTuple):
    """One engine's counts, None if it did not tell them in time; and its load, likewise."""

    engine_id: str
    boot_id: str
    counts: EngineCounts | None
    load: Load | None


class EngineMetrics:
    def __init__(self, made: Instruments) -> None:
        self._answers = made.gauge(
            "torpor.engine_answers", "1 if an engine told its counts at the last look", "engine"
        )
        self._requests = made.gauge(
            "torpor.engine_requests",
            "Requests that an engine runs, or that wait in it, whoever sent them",
            "engine",
            "place",
        )
        self._waiting = made.gauge(
            "torpor.engine_offload_waiting",
            "Bytes of state that wait to be offloaded",
            "engine",
            unit="By",
        )
        self._prefilled = made.counter(
            "torpor.engine_prefill_tokens", "Prompt tokens that were computed", "engine"
        )
        self._bytes = made.counter(
            "torpor.engine_state",
            "Bytes of state that were loaded from the store, and offloaded to it",
            "engine",
            "direction",
            unit="By",
        )
        self._seconds = made.counter(
            "torpor.engine_state_work",
            "Seconds in which state was loaded, and offloaded",
            "engine",
            "direction",
            unit="s",
        )
        self._failures = made.counter(
            "torpor.engine_failures", "Requests and batches that failed", "engine", "direction"
        )
        self._seen: dict[str, tuple[EngineCounts, float]] = {}  # by boot, and when
        self._looking = asyncio.Lock()  # counts that are told later must not be older

    async def look(self, engines: Collection[Engine]) -> None:
        """At all of them at once."""
        async with self._looking:
            self._now(await asyncio.gather(*map(_look_at, engines)))

    def _now(self, looks: Collection[_Look]) -> None:
        for gauge in (self._answers, self._requests, self._waiting):
            gauge.clear()
        now = time.monotonic()
        for one in looks:
            engine = one.engine_id
            self._answers.set(int(one.counts is not None), engine=engine)
            if one.load is not None:
                self._requests.set(one.load.running, engine=engine, place="running")
                self._requests.set(one.load.waiting, engine=engine, place="waiting")
            if one.counts is not None:
                self._waiting.set(one.counts.waiting_bytes, engine=engine)
                before, _ = self._seen.get(one.boot_id, (_NOTHING, 0.0))
                self._count(engine, one.counts, before)
                self._seen[one.boot_id] = (one.counts, now)  # kept: its heartbeat may come back
        for boot_id in [boot for boot, (_, at) in self._seen.items() if now - at > _FORGET]:
            del self._seen[boot_id]

    def _count(self, engine: str, counts: EngineCounts, before: EngineCounts) -> None:
        """What came since `before`. Not less than nothing, which a counter does not take."""
        prefilled = max(0, counts.prefilled_tokens - before.prefilled_tokens)
        self._prefilled.add(prefilled, engine=engine)
        for direction, instrument, now, then in (
            ("load", self._bytes, counts.loaded_bytes, before.loaded_bytes),
            ("offload", self._bytes, counts.offloaded_bytes, before.offloaded_bytes),
            ("load", self._seconds, counts.load_seconds, before.load_seconds),
            ("offload", self._seconds, counts.offload_seconds, before.offload_seconds),
            ("load", self._failures, counts.failed_loads, before.failed_loads),
            ("offload", self._failures, counts.failed_offloads, before.failed_offloads),
        ):
            instrument.add(max(0, now - then), engine=engine, direction=direction)


async def _look_at(engine: Engine) -> _Look:
    counts, load = None, None
    try:
        counts = await engine.counts(timeout=_PATIENCE)
        load = await engine.client.load(timeout=_PATIENCE)
        if load is None:
            logger.warning("engine %s does not tell its load", engine.record.engine_id)
    except (EngineError, StoreError) as error:
        logger.warning("engine %s is left out of the metrics: %s", engine.record.engine_id, error)
    return _Look(engine.record.engine_id, engine.record.boot_id, counts, load)


_NOTHING = EngineCounts(0, 0, 0, 0.0, 0.0, 0, 0, 0, 0)
