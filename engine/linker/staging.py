"""Verified objects in host memory, ready to be copied to the device.

A prefetch (on resume, before the request is submitted) and a load (inside the request) both
stage: read from Redis straight into a frame, check the checksum and the fingerprint, keep it
until the frame is needed for another object. Only a verified object is ever given out.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.linker.frames import Frames
from state_store.layout import Kind
from state_store.payloads import Outcome, Payloads

BATCH = (
    32  # pages or states read per round trip; also how long a concurrent stager may have to wait
)


@dataclass
class Staged:
    """What one `stage` call achieved. `frames` is pinned until `release`."""

    frames: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    unstaged: list[str] = field(default_factory=list)
    bytes_read: int = 0


class StagedObjects:
    """An LRU of verified objects of one kind over one slab of frames. Thread-safe."""

    def __init__(self, frames: Frames, kind: Kind) -> None:
        self.frames = frames
        self._kind: Kind = kind
        self._frame_of: OrderedDict[str, int] = OrderedDict()
        self._free = list(range(len(frames)))
        self._pins: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def stage(self, hashes: Sequence[str], payloads: Payloads) -> Staged:
        """Stage and pin as many of `hashes`, in order, as frames allow; the rest is `unstaged`.

        Raises StoreUnavailable when the store cannot be read; nothing stays pinned then.
        """
        staged = Staged()
        try:
            for start in range(0, len(hashes), BATCH):
                with self._mutex:
                    self._stage_batch(hashes[start : start + BATCH], payloads, staged)
        except BaseException:
            self.release(staged)
            raise
        return staged

    def release(self, staged: Staged) -> None:
        """Unpin what `stage` pinned. The objects stay staged until their frames are needed."""
        with self._mutex:
            for page_hash in staged.frames:
                self._pins[page_hash] -= 1
                if self._pins[page_hash] <= 0:
                    del self._pins[page_hash]

    def discard_all(self) -> None:
        """Forget every object that is not pinned."""
        with self._mutex:
            for page_hash in [h for h in self._frame_of if h not in self._pins]:
                self._free.append(self._frame_of.pop(page_hash))

    def _stage_batch(self, hashes: Sequence[str], payloads: Payloads, staged: Staged) -> None:
        wanted: list[tuple[str, int]] = []
        for page_hash in hashes:
            if page_hash in self._frame_of:
                self._frame_of.move_to_end(page_hash)
                self._pin(page_hash, staged)
            elif (frame := self._claim()) is None:
                staged.unstaged.append(page_hash)
            else:
                wanted.append((page_hash, frame))
        if not wanted:
            return
        items = [self.frames.objects(self._kind, h, frame) for h, frame in wanted]
        try:
            outcomes = iter(payloads.read([item for objects in items for item in objects]))
        except BaseException:
            self._free.extend(frame for _, frame in wanted)
            raise
        for (page_hash, frame), objects in zip(wanted, items, strict=True):
            found = {next(outcomes) for _ in objects}
            if found == {Outcome.OK}:
                self._frame_of[page_hash] = frame
                self._pin(page_hash, staged)
                staged.bytes_read += self.frames.frame_bytes
                continue
            (staged.corrupt if Outcome.CORRUPT in found else staged.missing).append(page_hash)
            self._free.append(frame)

    def _pin(self, page_hash: str, staged: Staged) -> None:
        if page_hash not in staged.frames:
            staged.frames[page_hash] = self._frame_of[page_hash]
            self._pins[page_hash] += 1

    def _claim(self) -> int | None:
        if self._free:
            return self._free.pop()
        for page_hash in self._frame_of:
            if page_hash not in self._pins:
                return self._frame_of.pop(page_hash)
        return None
