"""State slots of the device that nothing may take from the requests that run.

    slots >= per_request x in flight + held + waiting to be stored

SGLang sizes its pool of recurrent states so that all requests that run at once find theirs by
evicting what is cached, and ends with an assertion where one does not. What is held, or waits to be
stored, cannot be evicted. So it is counted, and bounded by what the requests in flight leave; and
while there is much of it, fewer requests are begun: the others wait in SGLang's queue.

Two slots are always left for what waits to be stored: else a device that is full of requests would
never store a state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.patch import Kind, Patch
from engine.plan.device import WAITING


class StateRoom:
    """Belongs to the scheduler's thread, and counts alike on all ranks.

    waiting: states on the device that wait to be stored
    held:    states that are kept from eviction
    """

    def __init__(self, slots: int, per_request: int, in_flight: Callable[[], int]) -> None:
        """slots: of the device; per_request: that a request may take at its worst; in_flight:
        requests that have begun and not ended"""
        self._slots = slots
        self._per_request = per_request
        self._in_flight = in_flight
        self._reserved = max(0, min(WAITING, slots - per_request))
        self.waiting = self.held = 0

    @property
    def in_flight(self) -> int:
        """Requests that have begun and not ended."""
        return self._in_flight()

    @property
    def most_requests(self) -> int:
        """That can run at once while nothing is held."""
        return max(1, (self._slots - self._reserved) // self._per_request)

    def for_requests(self) -> int:
        """How many may be in flight now."""
        taken = self.held + max(self.waiting, self._reserved)
        return max(0, self._slots - taken) // self._per_request

    def for_storing(self) -> bool:
        """Whether one more state may wait to be stored."""
        return self._left(self.in_flight) > self.waiting

    def for_holding(self) -> bool:
        """Whether one more state may be held; there is room for a request besides."""
        return self._left(max(1, self.in_flight)) > max(self.waiting, self._reserved)

    def _left(self, requests: int) -> int:
        return self._slots - self.held - self._per_request * requests


def room_of(params: Any) -> StateRoom | None:
    """For SGLang's pools of a model with recurrent states; None for another."""
    from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator

    requests = params.req_to_token_pool
    pool = getattr(requests, "mamba_pool", None)
    if pool is None:
        return None
    per_request = KVCacheConfigurator._calculate_mamba_ratio(None)  # it asks the options alone

    def in_flight() -> int:
        return int(requests.size - requests.available_size())

    return StateRoom(int(pool.size), int(per_request), in_flight)


def get_num_allocatable_reqs(
    original: Callable[..., int],
    scheduler: Any,
    running_bs: int,
    *others: Any,
    num_held_rows: int = 0,
    **named: Any,
) -> int:
    """No more than there is room for. num_held_rows: of requests in flight that are counted among
    those that are begun now, as one whose prompt goes on"""
    most = original(scheduler, running_bs, *others, num_held_rows=num_held_rows, **named)
    linker = getattr(scheduler.tree_cache, "linker", None)
    room: StateRoom | None = None if linker is None else linker.cache_linker.room
    if room is None:
        return most
    begun = room.in_flight - num_held_rows
    return max(0, min(most, room.for_requests() - begun))


PATCHES = (
    Patch(
        target="sglang.srt.managers.scheduler.Scheduler.get_num_allocatable_reqs",
        kind=Kind.AROUND,
        ours=get_num_allocatable_reqs,
        reason="a request is begun although its states will find no slot, and the engine dies",
    ),
)
