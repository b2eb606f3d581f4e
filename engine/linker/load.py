"""Redis (or host staging) -> device, layer by layer while the forward runs.

SGLang queues loads while it builds a batch and starts them together. The forward then waits,
layer by layer, on the batch's counter. Staging happens first for every object of the batch, so
that a missing or corrupt object fails the load before a byte of it reaches the device.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

from engine.errors import LoadFailed
from engine.linker.index import StoredIndex
from engine.linker.offload import Rows
from engine.linker.staging import Staged, StagedObjects
from state_store.errors import StoreError
from state_store.layout import Kind
from state_store.payloads import Payloads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Load:
    """All rows of one batch, under the counter index that its forward waits on."""

    counter_index: int
    parts: tuple[Rows, ...]
    ready: torch.cuda.Event


class Loader:
    """A thread that fills device rows and completes layers in order."""

    def __init__(
        self,
        staged: dict[Kind, StagedObjects],
        index: StoredIndex,
        counter: Any,
        payloads: Payloads,
        *,
        num_layers: int,
        device: torch.device,
    ) -> None:
        self._staged = staged
        self._index = index
        self._counter = counter
        self._payloads = payloads
        self._num_layers = num_layers
        self._stream = torch.Stream(device) if device.type == "cuda" else None
        self._queue: deque[Load | None] = deque()
        self._wake = threading.Condition()
        self._busy = 0
        self._errors: dict[int, BaseException] = {}
        self.objects_loaded = self.failures = 0
        self._thread = threading.Thread(target=self._run, name="torpor-load", daemon=True)
        self._thread.start()

    def submit(self, load: Load) -> None:
        with self._wake:
            self._queue.append(load)
            self._busy += 1
            self._wake.notify_all()

    def take_error(self, counter_index: int) -> BaseException | None:
        """Why that load failed, if its layers are decided; asked once."""
        return self._errors.pop(counter_index, None)

    def drain(self) -> None:
        """Wait until no load is queued or running."""
        with self._wake:
            self._wake.wait_for(lambda: self._busy == 0)
        self._errors.clear()

    def close(self) -> None:
        with self._wake:
            self._queue.append(None)
            self._wake.notify_all()
        self._thread.join()
        self._payloads.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._queue))
                load = self._queue.popleft()
            if load is None:
                return
            try:
                load.ready.synchronize()
                self._fill(load)
            except BaseException as error:
                # The counter carries the failure to SGLang, which aborts the batch's loading
                # requests before their output is used; the runtime then asks for a recompute.
                self.failures += 1
                logger.error("load failed, its requests are aborted: %s", error)
                self._errors[load.counter_index] = error
                self._counter.fail(load.counter_index, error)
            with self._wake:
                self._busy -= 1
                self._wake.notify_all()

    def _fill(self, load: Load) -> None:
        if all(len(p.hashes) <= len(self._staged[p.kind].frames) for p in load.parts):
            self._fill_layer_wise(load)
        else:
            self._fill_in_windows(load)

    def _fill_layer_wise(self, load: Load) -> None:
        pinned: list[tuple[Rows, Staged]] = []
        try:
            for part in load.parts:
                pinned.append((part, self._stage(part)))
            plan = [
                (
                    self._staged[part.kind].frames,
                    torch.tensor([staged.frames[h] for h in part.hashes]),
                    part.rows,
                )
                for part, staged in pinned
            ]
            for layer in range(self._num_layers):
                for frames, rows_in, rows_out in plan:
                    self._copy(frames, rows_in, rows_out, layer)
                self._counter.complete(load.counter_index, layer)
            self.objects_loaded += sum(len(part.hashes) for part in load.parts)
        finally:
            for part, staged in pinned:
                self._staged[part.kind].release(staged)

    def _fill_in_windows(self, load: Load) -> None:
        """More objects than frames: bounded memory wins over overlap with the forward."""
        for part in load.parts:
            frames = self._staged[part.kind].frames
            window = max(1, len(frames) // 2)
            for start in range(0, len(part.hashes), window):
                some = Rows(
                    part.kind,
                    part.hashes[start : start + window],
                    part.rows[start : start + window],
                )
                staged = self._stage(some)
                try:
                    rows_in = torch.tensor([staged.frames[h] for h in some.hashes])
                    for layer in range(self._num_layers):
                        self._copy(frames, rows_in, some.rows, layer)
                finally:
                    self._staged[part.kind].release(staged)
        for layer in range(self._num_layers):
            self._counter.complete(load.counter_index, layer)
        self.objects_loaded += sum(len(part.hashes) for part in load.parts)

    def _stage(self, part: Rows) -> Staged:
        """Stage all of `part` or raise LoadFailed, forgetting what turned out not to be there."""
        objects = self._staged[part.kind]
        try:
            staged = objects.stage(part.hashes, self._payloads)
        except StoreError:
            # A second attempt must not wait for this store again. What is there is known again
            # when a prefetch has seen it.
            self._index.forget(part.kind, part.hashes)
            raise
        if len(staged.frames) == len(set(part.hashes)):
            return staged
        objects.release(staged)
        self._index.forget(part.kind, staged.missing)
        self._index.condemn(part.kind, staged.corrupt)
        raise LoadFailed(
            f"{part.kind} objects: {len(staged.missing)} missing, {len(staged.corrupt)} corrupt, "
            f"{len(staged.unstaged)} without room, of {len(part.hashes)}"
        )

    def _copy(self, frames: Any, rows_in: torch.Tensor, rows_out: torch.Tensor, layer: int) -> None:
        with self._stream or contextlib.nullcontext():
            frames.scatter(rows_in, rows_out, layer)
        if self._stream is not None:
            self._stream.synchronize()
