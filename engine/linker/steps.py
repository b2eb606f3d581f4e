"""Work that only the scheduler's thread may do, asked for by another.

SGLang's tree belongs to the scheduler's thread, and has to change alike on all ranks. Commands come
to each rank by themselves, at times of their own. So what they want from the tree waits here until
a step in which every rank has it. A scheduler that idles may sleep between its steps
(`--sleep-on-idle`); it is woken.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from engine.linker.ranks import Ranks
from engine.patch import Kind, Patch

logger = logging.getLogger(__name__)

Work = Callable[[Any], Any]
"""Called with SGLang's `UnifiedRadixCache`."""

_bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # of this scheduler's process


class Steps:
    """Runs work between two steps of the scheduler, the same on all ranks."""

    def __init__(self, ranks: Ranks, due: Callable[[], Mapping[str, Work]]) -> None:
        """due: work, by name, that this rank's clock says it is time for"""
        self._ranks = ranks
        self._due = due
        self._waiting: dict[str, tuple[Work, Future[Any]]] = {}
        self._lock = threading.Lock()

    def ask(self, name: str, work: Work, *, timeout: float) -> Any:
        """What `work` returns, or raises; from any thread but the scheduler's.

        name: the same on all ranks, and nobody else's
        Raises TimeoutError if there was no step in `timeout` s that all ranks had it in.
        """
        answer: Future[Any] = Future()
        with self._lock:
            self._waiting[name] = (work, answer)
        os.eventfd_write(_bell, 1)
        try:
            return answer.result(timeout)
        finally:
            with self._lock:
                self._waiting.pop(name, None)

    def run(self, tree: Any) -> None:
        """Call it at each of the scheduler's steps, on all ranks."""
        with self._lock:
            mine = dict(self._waiting)
        for name, work in self._due().items():
            mine[name] = (work, Future())
        if not self._ranks.any([bool(mine)])[0]:
            return
        common = set.intersection(*map(set, self._ranks.each(sorted(mine))))
        for name in sorted(common):
            work, answer = mine[name]
            try:
                result = work(tree)
            except Exception as error:
                logger.exception("%s failed between two steps", name)  # what was due nobody awaits
                answer.set_exception(error)
            else:
                answer.set_result(result)
            with self._lock:
                self._waiting.pop(name, None)


def maybe_sleep(original: Callable[..., None], sleeper: Any) -> None:
    """Sleep until a request comes, or work for the next step."""
    if _bell not in sleeper.poller:
        sleeper.poller.register(_bell, select.POLLIN)
    original(sleeper)
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(_bell)


def check_hicache_events(original: Callable[..., Any], tree: Any) -> Any:
    """Upstream looks for offloads that are done, once in each step."""
    result = original(tree)
    if tree.linker is not None:
        tree.linker.cache_linker.steps.run(tree)
    return result


PATCHES = (
    Patch(
        target="sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache.check_hicache_events",
        kind=Kind.AROUND,
        ours=check_hicache_events,
        reason="nothing else lets another thread have the tree changed between two steps",
    ),
    Patch(
        target="sglang.srt.managers.scheduler_components.idle_sleeper.IdleSleeper.maybe_sleep",
        kind=Kind.AROUND,
        ours=maybe_sleep,
        reason="an idle scheduler sleeps for up to a second, whatever waits for its next step",
    ),
)
