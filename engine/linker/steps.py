"""Work that only the scheduler's thread may do, asked for by another.

SGLang's tree belongs to the scheduler's thread, and has to change alike on all ranks. Commands come
to each rank by themselves, at times of their own. So what they want from the tree waits here until
a step in which every rank has it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from engine.linker.ranks import Ranks
from engine.patch import Kind, Patch

logger = logging.getLogger(__name__)

Work = Callable[[Any], Any]
"""Called with SGLang's `UnifiedRadixCache`."""


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
)
