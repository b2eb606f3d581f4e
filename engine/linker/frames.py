"""Host staging memory: framed objects on their way between Redis and the device.

One slab holds `count` rows of equal size, each a page or a state with room for the headers of
the objects that it is stored as. Sockets send from them and receive into them with no copy
between.
The slab is touched once when made: first touch of fresh pages costs more than the copy itself
on some machines, and it is pinned when the device is a GPU.
"""

from __future__ import annotations

import torch

from engine.linker.segments import ObjectLayout
from state_store.codec import HEADER_BYTES, Frame
from state_store.layout import PART_BYTES, Kind, ObjectRef, parts_of


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

    def scatter(self, frames: torch.Tensor, device_rows: torch.Tensor, layer: int) -> None:
        """Copy `layer`'s bytes of the given rows int64[n] to device rows int64[n, places], those
        of -1 to nowhere."""
        for segment in self.layout.at_layer(layer):
            rows = device_rows[:, segment.place]
            wanted = rows >= 0
            payload = self._payload[:, segment.offset : segment.offset + segment.row_bytes]
            _copy_rows(payload, frames[wanted], segment.rows, rows[wanted])


def _copy_rows(
    source: torch.Tensor, rows: torch.Tensor, target: torch.Tensor, at: torch.Tensor
) -> None:
    """target[at] = source[rows]"""
    device = target.device
    if device.type != "cpu":
        target.index_copy_(0, at.to(device), source.index_select(0, rows).to(device))
        return
    # On a CPU `index_copy_` goes byte by byte; `index_select` copies row by row, but only into
    # consecutive rows. Pages that are loaded together mostly are.
    for start, end in _runs(at):
        first = int(at[start])
        torch.index_select(source, 0, rows[start:end], out=target[first : first + end - start])


def _runs(numbers: torch.Tensor) -> list[tuple[int, int]]:
    """Half-open ranges of places of int64[n] whose numbers count up by one."""
    breaks = ((numbers[1:] - numbers[:-1]) != 1).nonzero().flatten() + 1
    ends = [*breaks.tolist(), len(numbers)]
    return list(zip([0, *ends[:-1]], ends, strict=True)) if len(numbers) else []


def _cut(row: memoryview, headers: int) -> list[Frame]:
    payload = row[headers:]
    return [
        Frame(
            row[part * HEADER_BYTES : (part + 1) * HEADER_BYTES],
            payload[part * PART_BYTES : (part + 1) * PART_BYTES],
        )
        for part in range(headers // HEADER_BYTES)
    ]
