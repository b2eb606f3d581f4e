"""Device -> Redis, off the scheduler's thread.

SGLang locks a tree node while its offload is pending, so the device rows stay valid until the
result is popped. A result is True only when every object of the node is in the store
(acknowledged in memory; durability is confirmed at commit). A False result leaves the node
unmarked: it is offered again when its session settles, or at the next insert that passes.

What belongs to an encrypted tenant is encrypted in the staging memory; without the tenant's key it
is not stored at all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.linker.forms import Doors
from engine.linker.frames import Frames
from engine.linker.index import ObjectSet, StoredIndex
from engine.linker.progress import Progress
from state_store.codec import Frame
from state_store.errors import StoreError
from state_store.layout import Kind, ObjectRef
from state_store.payloads import Payloads
from state_store.tenant_forms import REFUSALS

logger = logging.getLogger(__name__)

REMEMBERED = 1 << 16  # objects of which it is known that they are not stored
_PAUSE = 1.0  # seconds after a write that failed in which no other is tried


@dataclass(frozen=True)
class Rows:
    """Device rows to store: `hashes[i]` names the object in `rows[i]`, int64[n, places]; -1 is no
    row."""

    kind: Kind
    hashes: list[str]
    rows: torch.Tensor


@dataclass(frozen=True)
class Offload:
    """One tree node's objects: stored together, reported as one result.

    session: whose prompt or answer they are, None if nobody's; salt: that they are named under
    """

    parts: tuple[Rows, ...]
    ready: tuple[torch.cuda.Event, ...]
    session: str | None = None
    salt: str | None = None

    @property
    def objects(self) -> int:
        return sum(len(part.hashes) for part in self.parts)


class Offloader:
    """A thread that copies, seals and writes nodes in the order they were queued."""

    def __init__(
        self,
        frames: dict[Kind, Frames],
        index: StoredIndex,
        doors: Doors,
        progress: Progress,
        *,
        ttl: int,
        remembered: int = REMEMBERED,
    ) -> None:
        """ttl: seconds that an object lives unless a commit pins it; remembered: most objects that
        `failed` knows of"""
        self._frames = frames
        self._index = index
        self._doors = doors
        self._progress = progress
        self._ttl = ttl
        self._queue: deque[Offload | None] = deque()
        self._results: deque[bool] = deque()
        self._changed = threading.Condition()
        self._queued = self._done = 0
        self._failed = ObjectSet(remembered)
        self._pause_until = 0.0
        self.objects_written = self.bytes_written = self.failures = 0
        self.seconds = 0.0  # that what was stored took
        self._thread = threading.Thread(target=self._run, name="torpor-offload", daemon=True)
        self._thread.start()

    def submit(self, offload: Offload) -> None:
        self._progress.offload_queued(offload.session, offload.objects)
        with self._changed:
            self._queue.append(offload)
            self._queued += 1
            self._changed.notify_all()

    def settle(self, timeout: float) -> bool:
        """Wait until everything queued before this call is decided; False after `timeout` s."""
        with self._changed:
            target = self._queued
            return self._changed.wait_for(lambda: self._done >= target, timeout)

    def failed(self, kind: Kind, hashes: Sequence[str]) -> int:
        """How many of `hashes` could not be written when they were last tried.

        Of an offload that failed some may have been written before that, or since.
        """
        failed, known = self._failed.has(kind, hashes), self._index.has(kind, hashes)
        return sum(one and not other for one, other in zip(failed, known, strict=True))

    def try_at_once(self) -> None:
        """Try the next, though one has just failed: somebody asks for it."""
        self._pause_until = 0.0

    def num_results(self) -> int:
        return len(self._results)

    def pop_result(self) -> bool:
        return self._results.popleft()

    def drain(self) -> None:
        """Wait for the queue to empty; drop unread results, and what has failed."""
        while not self.settle(timeout=1.0):
            logger.warning("waiting for pending offloads before a cache reset")
        self._results.clear()
        self._failed.clear()

    def close(self) -> None:
        with self._changed:
            self._queue.append(None)
            self._changed.notify_all()
        self._thread.join()
        self._doors.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._queue))
                offload = self._queue.popleft()
            if offload is None:
                return
            written = self.objects_written
            stored = self._store(offload)
            given_up = offload.objects - (self.objects_written - written)
            self._progress.offloaded(offload.session, given_up, 0)
            for part in offload.parts:
                (self._failed.remove if stored else self._failed.add)(part.kind, part.hashes)
            with self._changed:
                self._results.append(stored)
                self._done += 1
                self._changed.notify_all()

    def _store(self, offload: Offload) -> bool:
        started = time.perf_counter()
        if time.monotonic() < self._pause_until and offload.parts:
            self.failures += 1  # what waits behind a failure must not each wait as long
            return False
        try:
            for event in offload.ready:
                event.synchronize()
            for part in offload.parts:
                self._store_rows(part, offload.session, self._doors.of_salt(offload.salt))
        except REFUSALS as error:  # the store is well, and takes what others have
            self.failures += 1
            logger.error("offload of %s refused, kept on the device: %s", _count(offload), error)
            return False
        except StoreError as error:
            self._pause_until = time.monotonic() + _PAUSE
            self.failures += 1
            logger.error("offload of %s failed, kept on the device: %s", _count(offload), error)
            return False
        except Exception:
            self.failures += 1
            logger.exception("offload of %s failed, kept on the device", _count(offload))
            return False
        took = time.perf_counter() - started
        self.seconds += took
        logger.debug("offloaded %s in %.3f s", _count(offload), took)
        return True

    def _store_rows(self, part: Rows, session: str | None, payloads: Payloads) -> None:
        frames = self._frames[part.kind]
        for start in range(0, len(part.hashes), len(frames)):
            hashes = part.hashes[start : start + len(frames)]
            frames.gather(part.rows[start : start + len(hashes)])
            new: list[tuple[ObjectRef, Frame]] = []
            broken: list[tuple[ObjectRef, Frame]] = []
            for row, page_hash in enumerate(hashes):
                is_corrupt = self._index.is_corrupt(part.kind, page_hash)
                (broken if is_corrupt else new).extend(frames.objects(part.kind, page_hash, row))
            payloads.write(new, ttl=self._ttl)
            if broken:
                payloads.rewrite(broken, ttl=self._ttl)
            self._index.add(part.kind, hashes)
            size = len(hashes) * frames.frame_bytes
            self.objects_written += len(hashes)
            self.bytes_written += size
            self._progress.offloaded(session, len(hashes), size)


def _count(offload: Offload) -> str:
    return ", ".join(f"{len(part.hashes)} {part.kind}" for part in offload.parts)
