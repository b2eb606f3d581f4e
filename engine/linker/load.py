"""Redis (or host staging) -> device, layer by layer while the forward runs.

SGLang queues loads while it builds a batch and starts them together. The forward then waits,
layer by layer, on the batch's counter. What a request needs is staged before a byte of it reaches
the device, so that one whose object is missing, corrupt or late fails alone: the others of its
batch go on, and its own slots, which nobody else reads, are thrown away.

Two threads: one reads from the store, one fills the device and waits for the first no longer than
the load's deadline. A read that outlives its load ends by itself, and is of use to the next.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.errors import LoadFailed
from engine.linker.forms import Doors
from engine.linker.frames import Frames, Target
from engine.linker.index import StoredIndex
from engine.linker.offload import Rows
from engine.linker.progress import Progress
from engine.linker.staging import Staged, StagedObjects
from state_store.errors import ArchiveRefused, ArchiveUnavailable, StoreError
from state_store.layout import Kind
from state_store.tenant_forms import REFUSALS

logger = logging.getLogger(__name__)

Came = Callable[[int], None]
"""Told how many bytes of a request's objects are there, part by part."""

_DISTRUST = 2.0  # seconds after a read that failed in which only staged objects are offered


@dataclass(frozen=True)
class Load:
    """Rows of each request of one batch, under the counter index that its forward waits on. A state
    may have to go into two rows: then two parts name it.

    sessions: by request, None for one that is no session's
    salts:    that its objects are named under, by request
    free:     once these have come nothing that runs writes the rows any more: a request that has
              ended may still be in a forward that was launched before that was known
    """

    counter_index: int
    requests: Mapping[str, tuple[Rows, ...]]
    sessions: Mapping[str, str | None]
    salts: Mapping[str, str | None]
    free: tuple[torch.cuda.Event, ...]
    queued_at: float = field(default_factory=time.monotonic)

    def wait_for_rows(self) -> None:
        for event in self.free:
            event.synchronize()


class Loader:
    """Threads that stage what loads need, fill device rows and complete layers in order.

    objects_loaded: pages and states that reached the device
    failures:       requests whose load failed, whatever the reason
    late:           those of them that were given up at their deadline
    """

    def __init__(
        self,
        staged: dict[Kind, StagedObjects],
        index: StoredIndex,
        counter: Any,
        doors: Doors,
        progress: Progress,
        *,
        num_layers: int,
        device: torch.device,
        deadline: float,
    ) -> None:
        """deadline: seconds from the start of a batch in which its objects have to be staged."""
        self._staged = staged
        self._index = index
        self._counter = counter
        self._doors = doors
        self._progress = progress
        self._num_layers = num_layers
        self._deadline = deadline
        self._stream = torch.Stream(device) if device.type == "cuda" else None
        self._queue: deque[Load | None] = deque()
        self._wake = threading.Condition()
        self._busy = 0
        self._failed: dict[int, dict[str, str]] = {}
        self._given_up: set[Future[Staged]] = set()
        self._distrusted_until = 0.0
        self.objects_loaded = self.bytes_loaded = self.failures = self.late = 0
        self.seconds = 0.0  # of all batches of loads, staging included
        self._reader = ThreadPoolExecutor(1, "torpor-load-read")
        self._thread = threading.Thread(target=self._run, name="torpor-load", daemon=True)
        self._thread.start()

    @property
    def distrusts_store(self) -> bool:
        """Whether a read has just failed, or one that was given up is still waiting for the store:
        a load that needs the store would fail too."""
        return bool(self._given_up) or time.monotonic() < self._distrusted_until

    def submit(self, load: Load) -> None:
        with self._wake:
            self._queue.append(load)
            self._busy += 1
            self._wake.notify_all()

    def take_failed(self, counter_index: int) -> dict[str, str]:
        """Requests of that load that did not get their state, and why; asked once, when all its
        layers are decided."""
        return self._failed.pop(counter_index, {})

    def drain(self) -> None:
        """Wait until no load is queued or running."""
        with self._wake:
            self._wake.wait_for(lambda: self._busy == 0)
        self._failed.clear()

    def close(self) -> None:
        with self._wake:
            self._queue.append(None)
            self._wake.notify_all()
        self._thread.join()
        self._reader.shutdown()
        self._doors.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._queue))
                load = self._queue.popleft()
            if load is None:
                return
            failed: dict[str, str] = {}
            self._failed[load.counter_index] = failed
            started = time.perf_counter()
            try:
                self._fill(load, failed)
            except BaseException as error:  # the forward waits for it: it must hear of anything
                logger.exception("a batch of %d loads failed", len(load.requests))
                failed.update(dict.fromkeys(load.requests, f"{type(error).__name__}: {error}"))
                for session in load.sessions.values():
                    self._progress.load_failed(session)
                self._counter.fail(load.counter_index, error)
            self.seconds += time.perf_counter() - started
            with self._wake:
                self.failures += len(failed)
                self._busy -= 1
                self._wake.notify_all()

    def _fill(self, load: Load, failed: dict[str, str]) -> None:
        """Fill the rows of every request that can be staged; name the others in `failed`."""
        needed = {
            kind: sum(len(part.hashes) for parts in load.requests.values()
                      for part in _distinct(parts) if part.kind == kind)
            for kind in self._staged
        }  # fmt: skip
        if all(count <= len(self._staged[kind].frames) for kind, count in needed.items()):
            self._fill_layer_wise(load, failed)
        else:
            self._fill_in_windows(load, failed)

    def _fill_layer_wise(self, load: Load, failed: dict[str, str]) -> None:
        pinned: list[tuple[Rows, Staged]] = []
        try:
            for rid in load.requests:
                try:
                    pinned.extend(self._stage_all(rid, load, self._begins(rid, load)))
                except (LoadFailed, StoreError) as error:
                    failed[rid] = str(error)
            plan = [(self._staged[p.kind].frames, self._targets(p, staged)) for p, staged in pinned]
            load.wait_for_rows()
            for layer in range(self._num_layers):
                for frames, targets in plan:
                    self._copy(frames, targets, layer)
                if layer == self._num_layers - 1:  # before the scheduler can ask for counts
                    self._count(load, failed)
                self._counter.complete(load.counter_index, layer)
        finally:
            for part, staged in pinned:
                self._staged[part.kind].release(staged)

    def _begins(self, rid: str, load: Load) -> Came:
        total = sum(map(self._size, _distinct(load.requests[rid])))
        return self._progress.load_begins(load.sessions[rid], total)

    def _size(self, part: Rows) -> int:
        return len(part.hashes) * self._staged[part.kind].frames.frame_bytes

    def _count(self, load: Load, failed: Mapping[str, str]) -> None:
        """What has reached the device, and what has failed."""
        for rid, parts in load.requests.items():
            if rid in failed:
                self._progress.load_failed(load.sessions[rid])
            else:
                objects = _distinct(parts)
                self.objects_loaded += sum(len(part.hashes) for part in objects)
                size = sum(map(self._size, objects))
                self.bytes_loaded += size
                self._progress.loaded(load.sessions[rid], size)

    def _stage_all(self, rid: str, load: Load, came: Came) -> list[tuple[Rows, Staged]]:
        """Stage all parts of one request, or none. Raises LoadFailed; StoreError."""
        staged: list[tuple[Rows, Staged]] = []
        try:
            for part in load.requests[rid]:
                staged.append((part, self._stage(part, rid, load, came)))
        except BaseException:
            for part, some in staged:
                self._staged[part.kind].release(some)
            raise
        return staged

    def _fill_in_windows(self, load: Load, failed: dict[str, str]) -> None:
        """More objects than frames: bounded memory wins over overlap with the forward."""
        for rid, parts in load.requests.items():
            came = self._begins(rid, load)
            try:
                for part in parts:
                    self._fill_part(part, rid, load, came)
            except (LoadFailed, StoreError) as error:
                failed[rid] = str(error)
        self._count(load, failed)
        for layer in range(self._num_layers):
            self._counter.complete(load.counter_index, layer)

    def _fill_part(self, part: Rows, rid: str, load: Load, came: Came) -> None:
        frames = self._staged[part.kind].frames
        window = max(1, len(frames) // 2)
        for start in range(0, len(part.hashes), window):
            end = start + window
            some = Rows(part.kind, part.hashes[start:end], part.rows[start:end])
            staged = self._stage(some, rid, load, came)
            try:
                targets = self._targets(some, staged)
                load.wait_for_rows()
                for layer in range(self._num_layers):
                    self._copy(frames, targets, layer)
            finally:
                self._staged[part.kind].release(staged)

    def _stage(self, part: Rows, rid: str, load: Load, came: Came) -> Staged:
        """Stage all of `part`, forgetting what turned out not to be there.

        Waits while others take up the room. Raises LoadFailed, also when the load's deadline passes
        first; StoreError.
        """
        objects = self._staged[part.kind]
        while True:
            staged = objects.pin(part.hashes)
            if staged is None:
                staged = self._read(part, rid, load, came)
            else:
                came(self._size(part))
            if len(staged.frames) == len(set(part.hashes)):
                return staged
            objects.release(staged)
            if staged.missing or staged.corrupt:
                break
            if not objects.wait_for_room(part.hashes, self._left(load)):
                break
        self._index.forget(part.kind, staged.missing)
        self._index.condemn(part.kind, staged.corrupt)
        raise LoadFailed(
            f"{part.kind} objects: {len(staged.missing)} missing, {len(staged.corrupt)} corrupt, "
            f"{len(staged.unstaged)} without room, of {len(part.hashes)}"
        )

    def _read(self, part: Rows, rid: str, load: Load, came: Came) -> Staged:
        objects = self._staged[part.kind]

        def read() -> Staged:
            return objects.stage(part.hashes, self._doors.of_salt(load.salts[rid]), came)

        reading = self._reader.submit(read)
        try:
            return reading.result(self._left(load))
        except TimeoutError:
            self.late += 1
        except (*REFUSALS, ArchiveUnavailable, ArchiveRefused):  # others' are well
            raise
        except StoreError:
            self._distrusted_until = time.monotonic() + _DISTRUST
            raise
        self._give_up(reading, objects)
        raise LoadFailed(
            f"{part.kind} objects: {len(part.hashes)} were not read within the load deadline of "
            f"{self._deadline:g} s"
        )

    def _left(self, load: Load) -> float:
        """Seconds until the load's deadline."""
        return max(0.0, load.queued_at + self._deadline - time.monotonic())

    def _give_up(self, reading: Future[Staged], objects: StagedObjects) -> None:
        def unpin(done: Future[Staged]) -> None:
            if not done.cancelled() and done.exception() is None:
                objects.release(done.result())
            self._given_up.discard(done)

        self._given_up.add(reading)
        reading.cancel()
        reading.add_done_callback(unpin)

    def _targets(self, part: Rows, staged: Staged) -> list[Target]:
        rows = torch.tensor([staged.frames[h] for h in part.hashes])
        with self._stream or contextlib.nullcontext():
            return self._staged[part.kind].frames.targets(rows, part.rows)

    def _copy(self, frames: Frames, targets: list[Target], layer: int) -> None:
        with self._stream or contextlib.nullcontext():
            frames.scatter(targets, layer)
        if self._stream is not None:
            self._stream.synchronize()


def _distinct(parts: Sequence[Rows]) -> list[Rows]:
    """Each object once."""
    return list({(part.kind, part.hashes[-1]): part for part in parts}.values())
