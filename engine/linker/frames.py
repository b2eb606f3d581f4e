"""Host staging memory: framed objects on their way between Redis and the device.

One slab holds `count` rows of equal size, each a page or a state with room for the headers of
the objects that it is stored as. Sockets send from them and receive into them with no copy
between.
The slab is touched once when made: first touch of fresh pages costs more than the copy itself
on some machines, and it is pinned when the device is a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.linker.segments import ObjectLayout
from state_store.codec import HEADER_BYTES, Frame
from state_store.layout import PART_BYTES, Kind, ObjectRef, parts_of


@dataclass(frozen=True)
class Target:
    """Where rows of a slab belong on the device, in one of an object's places.

    frames: int64[n], rows of the slab
    rows:   int64[n], of the device, on the device
    runs:   half-open ranges of the two in which device rows count up by one, and the first of each;
            of a CPU only
    """

    frames: torch.Tensor
    rows: torch.Tensor
    runs: tuple[tuple[int, int, int], ...]


class Frames:
    """A slab of one object kind: uint8[count, parts * HEADER_BYTES + payload_bytes]."""

    def __init__(self, layout: ObjectLayout, count: int, *, pin: bool) -> None:
        self.layout = layout
        headers = parts_of(layout.payload_bytes) * HEADER_BYTES
        self.frame_bytes = headers + layout.payload_bytes
        self._slab = torch.zeros(count, self.frame_bytes, dtype=torch.uint8, pin_memory=pin)
        self._payload = self._slab[:, headers:]
        whole = self._slab.numpy().data.cast("B")
        size = self.frame_bytes
        self._rows = [_cut(whole[row * size : (row + 1) * size], headers) for row in range(count)]

    def __len__(self) -> int:
        return len(self._rows)

    def objects(self, kind: Kind, page_hash: str, row: int) -> list[tuple[ObjectRef, Frame]]:
        """The objects that a page or state is stored as, each with its place in `row`."""
        return [
            (ObjectRef(kind, page_hash, part), frame) for part, frame in enumerate(self._rows[row])
        ]

    def gather(self, device_rows: torch.Tensor) -> None:
        """Copy device rows int64[n, places] into rows 0..n-1, all layers. Returns when readable.

        A place without a row (-1) is filled with zeros.
        """
        n = len(device_rows)
        for segment in self.layout.segments:
            rows = device_rows[:, segment.place]
            target = self._payload[:n, segment.offset : segment.offset + segment.row_bytes]
            source, wanted = segment.rows, rows.clamp(min=0)
            if source.device.type == "cpu":
                torch.index_select(source, 0, wanted, out=target)
            else:
                target.copy_(source.index_select(0, wanted.to(source.device)))
            if bool((missing := rows < 0).any()):
                target[missing] = 0

    def targets(self, frames: torch.Tensor, device_rows: torch.Tensor) -> list[Target]:
        """Of the given rows int64[n] to device rows int64[n, places], those of -1 to nowhere; the
        same for all layers."""
        device = self.layout.segments[0].rows.device
        targets = []
        for rows in device_rows.unbind(1):
            wanted = rows >= 0
            at = rows[wanted]
            runs = _runs(at) if device.type == "cpu" else ()
            targets.append(Target(frames[wanted], at.to(device), runs))
        return targets

    def scatter(self, targets: list[Target], layer: int) -> None:
        """Copy `layer`'s bytes to the device. On a CPU with few operations, each of which would
        wait for the interpreter beside a forward that runs."""
        for segment in self.layout.at_layer(layer):
            target = targets[segment.place]
            source = self._payload[:, segment.offset : segment.offset + segment.row_bytes]
            if segment.rows.device.type != "cpu":
                copied = source.index_select(0, target.frames).to(segment.rows.device)
                segment.rows.index_copy_(0, target.rows, copied)
                continue
            # On a CPU `index_copy_` goes byte by byte; `index_select` copies row by row, but only
            # into consecutive rows. Pages that are loaded together mostly are.
            for start, end, first in target.runs:
                into = segment.rows[first : first + end - start]
                torch.index_select(source, 0, target.frames[start:end], out=into)


def _runs(numbers: torch.Tensor) -> tuple[tuple[int, int, int], ...]:
    """Half-open ranges of places of int64[n] whose numbers count up by one, and the first number
    of each."""
    breaks = ((numbers[1:] - numbers[:-1]) != 1).nonzero().flatten() + 1
    starts = [0, *breaks.tolist()][: len(numbers)]
    ends = [*starts[1:], len(numbers)]
    return tuple(zip(starts, ends, numbers[starts].tolist(), strict=True)) if starts else ()


def _cut(row: memoryview, headers: int) -> list[Frame]:
    payload = row[headers:]
    return [
        Frame(
            row[part * HEADER_BYTES : (part + 1) * HEADER_BYTES],
            payload[part * PART_BYTES : (part + 1) * PART_BYTES],
        )
        for part in range(headers // HEADER_BYTES)
    ]
