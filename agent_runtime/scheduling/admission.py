"""The scheduler at work: turns of this runtime wait here for a slot of the engine they were given.

One scheduler per engine start. The clock is the event loop's; what the scheduler decides is done
in the background: a turn never waits for another session's suspension or prefetch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from agent_runtime.errors import Overloaded
from agent_runtime.policies import FlopsPerByte
from agent_runtime.scheduling.queues import Ask, FairQueue, QueueFull
from agent_runtime.scheduling.residency import Residency
from agent_runtime.scheduling.scheduler import Prefetch, Scheduler, Start, Suspend, Where
from agent_runtime.scheduling.sizes import Capacity, Sizes
from agent_runtime.scheduling.tool_times import REPLY
from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.scheduling import EngineSlots
from engine.errors import EngineError
from engine.plan.compute import Flops, prefill_flops
from engine.plan.device import SLOTS
from engine.plan.models import model_of
from engine.pool import Engine
from state_store.errors import StoreError

logger = logging.getLogger(__name__)

_IDLE_STATES = 2  # a turn leaves two: at its prompt's end and at its own


@dataclass
class Slot:
    """A turn's place on an engine.

    where:  its session's state was believed to be when it started
    queued: seconds that it waited
    tokens: of the session on the device when it has ended; None unless `ended` was called
    """

    where: Where
    queued: float
    tokens: int | None = None
    tool: str = REPLY
    reprefilled: bool = False

    def ended(self, *, tokens: int, tool: str, reprefilled: bool) -> None:
        """The turn has its result. tool: that the session waits for now, REPLY if for a person;
        reprefilled: whether it computed again what its head's boundary covered."""
        self.tokens, self.tool, self.reprefilled = tokens, tool, reprefilled


@dataclass
class _Desk:
    """One engine's scheduler, and the turns that wait for its word."""

    engine: Engine
    scheduler: Scheduler
    waiting: dict[str, asyncio.Future[Where]] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)
    timer: asyncio.TimerHandle | None = None
    turns: int = 0
    reprefilled: int = 0

    def close(self) -> None:
        """It is not asked any more."""
        if self.timer is not None:
            self.timer.cancel()


class Admission:
    """Every turn passes here before anything is computed for it."""

    def __init__(
        self,
        settings: RuntimeSettings,
        residency: Residency,
        prefetch: Callable[[str, Engine], Awaitable[None]],
    ) -> None:
        """prefetch: stages the head of a session on an engine

        Raises ImpossiblePlan if the policy needs the model's FLOPs and they are not known."""
        self._settings = settings.scheduling
        self._flops = _flops(settings)
        self._residency = residency
        self._prefetch = prefetch
        self._desks: dict[str, _Desk] = {}
        self._background: set[asyncio.Task[None]] = set()
        residency.when_left(self._left)

    @contextlib.asynccontextmanager
    async def slot(
        self, session_id: str, tenant: str, engine: Engine, *, known: int, added: int
    ) -> AsyncIterator[Slot]:
        """Wait for a slot of `engine`, and have it for the length of the block.

        known: tokens of the session's history; added: tokens that the turn may add to it.
        Raises Overloaded when too many wait already.
        """
        desk, loop = self._desk(engine), asyncio.get_running_loop()
        ask = Ask(session_id, tenant, known + added, known, added, loop.time())
        self._queue(desk, ask)
        granted = desk.waiting[session_id] = loop.create_future()
        desk.present.add(session_id)
        self._pump(desk)
        try:
            slot = Slot(await granted, loop.time() - ask.at)
        except asyncio.CancelledError:
            if desk.scheduler.withdraw(ask):
                desk.waiting.pop(session_id)
            else:  # it was started, and nobody is there to run it
                desk.scheduler.failed(session_id, loop.time())
            self._gone(desk, session_id)
            raise
        try:
            yield slot
        finally:
            if slot.tokens is None:
                desk.scheduler.failed(session_id, loop.time())
            else:
                desk.turns += 1
                desk.reprefilled += slot.reprefilled
                desk.scheduler.finished(session_id, loop.time(), tokens=slot.tokens, tool=slot.tool)
            self._gone(desk, session_id)

    async def close(self) -> None:
        for desk in self._desks.values():
            desk.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def status(self) -> list[EngineSlots]:
        """Of each engine that this runtime has given turns to."""
        return [_status(desk) for desk in self._desks.values()]

    # ---- one engine ---------------------------------------------------------------

    def _desk(self, engine: Engine) -> _Desk:
        record = engine.record
        desk = self._desks.get(record.boot_id)
        if desk is None:
            for boot_id, other in list(self._desks.items()):
                if other.engine.record.engine_id == record.engine_id and not other.present:
                    self._desks.pop(boot_id).close()  # an earlier start of it
            settings = self._settings
            queue = FairQueue(
                limit=settings.queue_limit,
                tenant_limit=settings.tenant_queue_limit,
                quantum=settings.quantum,
            )
            capacity, sizes = self._measured(engine)
            policy = settings.make_policy()
            scheduler = Scheduler(
                capacity,
                sizes,
                policy,
                queue,
                prefetch=settings.prefetch,
                is_held=self._residency.is_held,
            )
            desk = self._desks[record.boot_id] = _Desk(engine, scheduler)
        return desk

    def _measured(self, engine: Engine) -> tuple[Capacity, Sizes]:
        """As the engine says it in its record."""
        record = engine.record
        capacity = Capacity(
            running=record.running_slots,
            states=record.state_slots,
            tokens=record.kv_slots,
            running_states=min(SLOTS, record.state_slots // record.running_slots),
            idle_states=_IDLE_STATES,
            staging_bytes=record.staging_bytes * record.ranks,
        )
        sizes = Sizes(
            state=record.state_object_bytes * record.ranks,
            kv_per_token=record.kv_object_bytes * record.ranks // record.page_size,
            linear=self._flops.linear,
            quadratic=self._flops.quadratic,
            load_bandwidth=self._settings.load_bandwidth,
        )
        return capacity, sizes

    def _queue(self, desk: _Desk, ask: Ask) -> None:
        scheduler = desk.scheduler
        engine_id = desk.engine.record.engine_id
        if ask.session in desk.present:  # its lease was lost to this one
            raise Overloaded(
                f"an earlier turn of {ask.session} has not left engine {engine_id} yet. Nothing "
                "was generated; send the turn again.",
                retry_after=1.0,
            )
        try:
            scheduler.submit(ask)
        except QueueFull as full:
            wait = scheduler.retry_after()
            raise Overloaded(
                f"{full} for engine {engine_id}, which runs {scheduler.running} at once. The "
                f"session is unchanged; send the turn again in {wait:.0f} s, or add an engine.",
                retry_after=wait,
            ) from full

    def _gone(self, desk: _Desk, session_id: str) -> None:
        desk.present.discard(session_id)
        self._pump(desk)

    def _pump(self, desk: _Desk) -> None:
        """Do what there is to do now, and come back when there will be more."""
        loop = asyncio.get_running_loop()
        for action in desk.scheduler.step(loop.time()):
            if isinstance(action, Start):
                granted = desk.waiting.pop(action.ask.session)
                if not granted.done():  # else it was cancelled, and gives the slot back itself
                    granted.set_result(action.where)
            elif isinstance(action, Suspend):
                self._suspend(desk.engine, action.session)
            elif isinstance(action, Prefetch):
                self._do(self._fetched(desk.engine, action.session))
        if desk.timer is not None:
            desk.timer.cancel()
        wake = desk.scheduler.wake_at()
        desk.timer = None if wake is None else loop.call_at(wake, self._pump, desk)

    # ---- in the background ------------------------------------------------------------

    def _suspend(self, engine: Engine, session_id: str) -> None:
        """Forgotten here at once: a turn that comes meanwhile is another stay on the device."""
        place = self._residency.place(session_id)
        if place is None or place.boot_id != engine.record.boot_id:
            return
        if self._residency.is_held(session_id):
            return  # somebody pays for it to stay
        self._residency.left(session_id)
        self._do(engine.client.release(place.tag))

    async def _fetched(self, engine: Engine, session_id: str) -> None:
        desk = self._desks.get(engine.record.boot_id)
        if desk is not None and session_id not in desk.present:
            await self._prefetch(session_id, engine)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _left(self, session_id: str) -> None:
        for desk in self._desks.values():
            desk.scheduler.left(session_id)


def _flops(settings: RuntimeSettings) -> Flops:
    """Of the model; no other policy asks for them."""
    if settings.scheduling.policy != FlopsPerByte.name or settings.model_dir is None:
        return Flops(linear=1.0, quadratic=0.0)
    return prefill_flops(model_of(str(settings.model_dir), None, "CPU"))


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """A suspension or prefetch that fails costs time later, and nothing else."""
    try:
        await work
    except (EngineError, StoreError) as error:
        logger.warning("scheduling: %s", error)


def _status(desk: _Desk) -> EngineSlots:
    scheduler = desk.scheduler
    stats, capacity = scheduler.stats, scheduler.capacity
    states, tokens = scheduler.used
    return EngineSlots(
        engine=desk.engine.record.engine_id,
        policy=scheduler.policy.name,
        slots=capacity.running,
        running=scheduler.running,
        waiting=scheduler.queue.waiting(),
        resident=len(scheduler.resident),
        away=scheduler.away,
        used_states=states,
        state_slots=capacity.states,
        used_tokens=tokens,
        kv_slots=capacity.tokens,
        turns=desk.turns,
        reprefilled=desk.reprefilled,
        starts={str(where): count for where, count in stats.starts.items()},
        token_hit_rate=stats.reused_tokens / max(1, stats.known_tokens),
        suspended=stats.suspended,
        prefetched=stats.prefetched,
        refused=stats.refused,
    )
