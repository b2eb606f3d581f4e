"""How a stored object lies in the device's buffers: which of them it is cut from, in what order."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Segment:
    """One buffer's share of an object.

    layer:  transfer layer that must wait for these bytes
    rows:   uint8[n_rows, row_bytes] view of the device buffer; one row is one page or one slot
    offset: bytes from the start of the object's payload
    dtype:  of the buffer's numbers
    place:  which of the object's rows it is, of an object that is cut from several places
    """

    layer: int
    rows: torch.Tensor
    offset: int
    dtype: str
    place: int = 0

    @property
    def row_bytes(self) -> int:
        return int(self.rows.shape[1])


@dataclass(frozen=True)
class ObjectLayout:
    """The segments of one kind of object, in payload order."""

    segments: tuple[Segment, ...]

    @property
    def payload_bytes(self) -> int:
        return sum(segment.row_bytes for segment in self.segments)

    @property
    def places(self) -> int:
        """How many rows of the device an object is cut from."""
        return 1 + max(segment.place for segment in self.segments)

    def at_layer(self, layer: int) -> list[Segment]:
        return [segment for segment in self.segments if segment.layer == layer]
