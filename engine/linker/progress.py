"""How far the work on each session is, and what it has taken since this process started.

Told by whoever does the work: the scheduler after each prefill chunk, the threads that load and
offload after each batch of objects. Asked by runtimes while they wait (`control.py`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.patch import Kind, Patch
from engine.tags import session_of

_REMEMBERED = 4096  # sessions


@dataclass
class Work:
    """done of total; what is done is over, and is told until the next such work begins"""

    done: int = 0
    total: int = 0


@dataclass
class RankWork:
    """Of one session, on one rank.

    load:    bytes of objects that are in host memory, of those that were asked for
    prefill: tokens of the prompt that are in place: restored or computed
    offload: objects that are stored, or given up, of those queued since none were waiting

    The others count since the process started. prefilled_tokens: computed, and restored ones not;
    loaded_bytes: that reached the device; offloaded_bytes: written to the store; failed_loads: of
    requests
    """

    load: Work = field(default_factory=Work)
    prefill: Work = field(default_factory=Work)
    offload: Work = field(default_factory=Work)
    prefilled_tokens: int = 0
    loaded_bytes: int = 0
    offloaded_bytes: int = 0
    failed_loads: int = 0


class Progress:
    """Of the sessions that were last served. Thread-safe. A session of None is nobody's: requests
    that do not come from a runtime."""

    def __init__(self) -> None:
        self.prefilled_tokens = 0  # of all requests since the process started
        self._sessions: OrderedDict[str, RankWork] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, session: str) -> dict[str, Any]:
        """A `RankWork` as plain values; zeros for a session that is not known."""
        with self._lock:
            return asdict(self._sessions.get(session, RankWork()))

    def load_begins(self, session: str | None, total: int) -> Callable[[int], None]:
        """A load of `total` bytes; to be called with the bytes of each part that is there."""
        work = Work(0, total)

        def came(size: int) -> None:
            with self._lock:
                work.done = min(work.done + size, total)  # what found no room is read again

        self._change(session, lambda one: setattr(one, "load", work))
        return came

    def load_ends(self, session: str | None) -> None:
        """It has failed: what is missing does not come any more."""
        self._change(session, lambda one: setattr(one, "load", Work()))

    def loaded(self, session: str | None, size: int) -> None:
        """Bytes that reached the device."""

        def add(one: RankWork) -> None:
            one.loaded_bytes += size

        self._change(session, add)

    def load_failed(self, session: str | None) -> None:
        def add(one: RankWork) -> None:
            one.failed_loads += 1
            one.load = Work()

        self._change(session, add)

    def prefilled(self, session: str | None, tokens: int, *, done: int, total: int) -> None:
        """`tokens` were computed, up to `done` of a prompt of `total`."""

        def add(one: RankWork) -> None:
            one.prefilled_tokens += tokens
            one.prefill = Work(done, total)

        self.prefilled_tokens += tokens
        self._change(session, add)

    def offload_queued(self, session: str | None, objects: int) -> None:
        def add(one: RankWork) -> None:
            if one.offload.done == one.offload.total:
                one.offload = Work()
            one.offload.total += objects

        self._change(session, add)

    def offloaded(self, session: str | None, objects: int, size: int) -> None:
        """size: bytes written; 0 of objects that were given up"""

        def add(one: RankWork) -> None:
            one.offload.done += objects
            one.offloaded_bytes += size

        self._change(session, add)

    def _change(self, session: str | None, change: Callable[[RankWork], None]) -> None:
        if session is None:
            return
        with self._lock:
            change(self._sessions.setdefault(session, RankWork()))
            self._sessions.move_to_end(session)
            while len(self._sessions) > _REMEMBERED:
                self._sessions.popitem(last=False)


def process_batch_result_prefill(
    original: Callable[..., Any], processor: Any, batch: Any, result: Any
) -> Any:
    """Count what a batch has computed of each prompt, once it has."""
    answer = original(processor, batch, result)
    linker = getattr(processor.tree_cache, "linker", None)
    if linker is not None:
        decoding = len(batch.decoding_reqs or ())  # they are the last of a mixed batch
        for at, req in enumerate(batch.reqs[: len(batch.reqs) - decoding]):
            tokens = batch.extend_lens[at]
            linker.cache_linker.progress.prefilled(
                None if req.session_id is None else session_of(req.session_id),
                tokens,
                done=batch.prefix_lens[at] + tokens,
                total=len(req.origin_input_ids),
            )
    return answer


PATCHES = (
    Patch(
        target="sglang.srt.managers.scheduler_components.batch_result_processor"
        ".SchedulerBatchResultProcessor.process_batch_result_prefill",
        kind=Kind.AROUND,
        ours=process_batch_result_prefill,
        reason="nobody else knows how much of a long prompt is computed",
    ),
)
