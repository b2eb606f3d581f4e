"""Host staging memory: framed objects on their way between Redis and the device.

One slab holds `count` frames of equal size. Each frame is a stored object exactly as it stands
in Redis (header + payload), so sockets send from it and receive into it with no copy between.
The slab is touched once when made: first touch of fresh pages costs more than the copy itself
(see `torpor bench store`), and it is pinned when the device is a GPU.
"""

from __future__ import annotations

import torch

from engine.linker.pools import ObjectLayout
from state_store.codec import HEADER_BYTES


class Frames:
    """A slab of `count` frames of one object kind: uint8[count, HEADER_BYTES + payload_bytes]."""

    def __init__(self, layout: ObjectLayout, count: int, *, pin: bool) -> None:
        self.layout = layout
        self.frame_bytes = HEADER_BYTES + layout.payload_bytes
        self._slab = torch.zeros(count, self.frame_bytes, dtype=torch.uint8, pin_memory=pin)
        self._payload = self._slab[:, HEADER_BYTES:]
        whole = self._slab.numpy().data.cast("B")
        size = self.frame_bytes
        self.views = [whole[row * size : (row + 1) * size] for row in range(count)]

    def __len__(self) -> int:
        return len(self.views)

    def gather(self, device_rows: torch.Tensor) -> None:
        """Copy device rows int64[n] into frames 0..n-1, all layers. Returns when readable."""
        n = len(device_rows)
        for segment in self.layout.segments:
            end = segment.offset + segment.row_bytes
            self._payload[:n, segment.offset : end].copy_(
                segment.rows.index_select(0, device_rows.to(segment.rows.device))
            )

    def scatter(self, frames: torch.Tensor, device_rows: torch.Tensor, layer: int) -> None:
        """Copy `layer`'s bytes of the given frames int64[n] to device rows int64[n]."""
        for segment in self.layout.at_layer(layer):
            end = segment.offset + segment.row_bytes
            device = segment.rows.device
            source = self._payload[:, segment.offset : end].index_select(0, frames)
            segment.rows.index_copy_(0, device_rows.to(device), source.to(device))
