"""Verified objects in host memory, ready to be copied to the device.

A prefetch (on resume, before the request is submitted) and a load (inside the request) both
stage: read from Redis straight into a frame, check the checksum and the fingerprint, keep it
until the frame is needed for another object. Only a verified object is ever given out.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.linker.frames import Frames
from state_store.layout import Kind
from state_store.payloads import Outcome, Payloads

BATCH_BYTES = 16 << 20
"""Read per round trip: the store has the next windows to send while one is checked. Progress is
told, and what others need of the room is found, between two of them."""


@dataclass
class Staged:
    """What one `stage` call achieved. `frames` is pinned until `release`."""

    frames: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    unstaged: list[str] = field(default_factory=list)
    bytes_read: int = 0


def _nobody(size: int) -> None:
    pass


class StagedObjects:
    """An LRU of verified objects of one kind over one slab of frames. Thread-safe."""

    def __init__(self, frames: Frames, kind: Kind) -> None:
        self.frames = frames
        self._kind: Kind = kind
        self._batch = max(1, BATCH_BYTES // frames.frame_bytes)
        self._frame_of: OrderedDict[str, int] = OrderedDict()
        self._free = list(range(len(frames)))
        self._pins: Counter[str] = Counter()
        self._mutex = threading.Lock()
        self._room = threading.Condition(self._mutex)

    @property
    def pinned(self) -> int:
        """How many objects are pinned."""
        return len(self._pins)

    def stage(
        self, hashes: Sequence[str], payloads: Payloads, came: Callable[[int], None] = _nobody
    ) -> Staged:
        """Stage and pin as many of `hashes`, in order, as frames allow; the rest is `unstaged`.

        came: told the bytes of each batch once it is decided
        Raises StoreUnavailable when the store cannot be read; nothing stays pinned then.
        """
        staged = Staged()
        try:
            for start in range(0, len(hashes), self._batch):
                batch = hashes[start : start + self._batch]
                self._stage_batch(batch, payloads, staged)
                came(len(batch) * self.frames.frame_bytes)
        except BaseException:
            self.release(staged)
            raise
        return staged

    def prefetch(
        self, hashes: Sequence[str], payloads: Payloads, came: Callable[[int], None] = _nobody
    ) -> Staged:
        """Stage as many as there are frames, but keep none pinned: a load that needs the room now
        does not wait for the rest of a long chain, and takes it.

        `frames` tells what was staged; some of it may be gone again. came: as for `stage`
        """
        staged = Staged()
        fit = len(self.frames)
        for start in range(0, min(len(hashes), fit), self._batch):
            some = self.stage(hashes[start : min(start + self._batch, fit)], payloads, came)
            self.release(some)
            staged.frames |= some.frames
            staged.missing += some.missing
            staged.corrupt += some.corrupt
            staged.unstaged += some.unstaged
            staged.bytes_read += some.bytes_read
        staged.unstaged += hashes[fit:]
        came(len(hashes[fit:]) * self.frames.frame_bytes)
        return staged

    def pin(self, hashes: Sequence[str]) -> Staged | None:
        """Pin `hashes` if all of them are staged already; never waits for the store."""
        staged = Staged()
        with self._mutex:
            if not all(page_hash in self._frame_of for page_hash in hashes):
                return None
            for page_hash in hashes:
                self._frame_of.move_to_end(page_hash)
                self._pin(page_hash, staged)
        return staged

    def has(self, hashes: Sequence[str]) -> list[bool]:
        """Which of `hashes` are staged."""
        with self._mutex:
            return [page_hash in self._frame_of for page_hash in hashes]

    def release(self, staged: Staged) -> None:
        """Unpin what `stage` pinned. The objects stay staged until their frames are needed."""
        with self._mutex:
            for page_hash in staged.frames:
                self._pins[page_hash] -= 1
                if self._pins[page_hash] <= 0:
                    del self._pins[page_hash]
            self._room.notify_all()

    def wait_for_room(self, hashes: Sequence[str], timeout: float) -> bool:
        """Wait until others have let go of enough frames for `hashes`, if they fit at all; False
        after `timeout` s."""

        def fits() -> bool:
            wanted = sum(page_hash not in self._pins for page_hash in hashes)
            return wanted <= len(self._free) + len(self._frame_of) - len(self._pins)

        with self._mutex:
            return self._room.wait_for(fits, timeout)

    def discard_all(self) -> None:
        """Forget every object that is not pinned."""
        with self._mutex:
            for page_hash in [h for h in self._frame_of if h not in self._pins]:
                self._free.append(self._frame_of.pop(page_hash))

    def _stage_batch(self, hashes: Sequence[str], payloads: Payloads, staged: Staged) -> None:
        with self._mutex:
            wanted = self._claim_missing(hashes, staged)
        if not wanted:
            return
        items = [self.frames.objects(self._kind, h, frame) for h, frame in wanted]
        try:  # without the mutex: a store that is slow holds up nobody else
            outcomes = iter(payloads.read([item for objects in items for item in objects]))
        except BaseException:
            with self._mutex:
                self._free.extend(frame for _, frame in wanted)
                self._room.notify_all()
            raise
        with self._mutex:
            for (page_hash, frame), objects in zip(wanted, items, strict=True):
                found = {next(outcomes) for _ in objects}
                if found != {Outcome.OK}:
                    is_corrupt = Outcome.CORRUPT in found
                    (staged.corrupt if is_corrupt else staged.missing).append(page_hash)
                    self._free.append(frame)
                    continue
                if page_hash in self._frame_of:  # another stager was faster
                    self._free.append(frame)
                else:
                    self._frame_of[page_hash] = frame
                self._pin(page_hash, staged)
                staged.bytes_read += self.frames.frame_bytes
            self._room.notify_all()

    def _claim_missing(self, hashes: Sequence[str], staged: Staged) -> list[tuple[str, int]]:
        """Pin what is staged; the others, each with a frame to read it into."""
        wanted: list[tuple[str, int]] = []
        for page_hash in hashes:
            if page_hash in self._frame_of:
                self._frame_of.move_to_end(page_hash)
                self._pin(page_hash, staged)
            elif (frame := self._claim()) is None:
                staged.unstaged.append(page_hash)
            else:
                wanted.append((page_hash, frame))
        return wanted

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
