"""What a state is made of, and where on the device one is whole.

A layer with a sliding window needs the KV of the last tokens only, and SGLang keeps no more: what
falls out of the window is freed, and that of a path in the tree goes before its other KV does. So
of such layers no page is stored for its own sake. The trailing pages of a boundary, as many as the
window spans, are a part of its state, beside the Mamba state or instead of it:

    tokens         |----page----|----page----|----page----|----page----|
    KV of all      |     kv     |     kv     |     kv     |     kv     |
    windows                                  |          state          |
    Mamba                                                           state

They are stored as one object and come back as one, so that a boundary has both or is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class StateParts:
    """Of one engine's states. has_mamba: a Mamba state; window_pages: pages of a sliding window,
    0 without one

    `node` is one of SGLang's tree.
    """

    has_mamba: bool
    window_pages: int

    @property
    def window_places(self) -> range:
        """Places of the window's pages in an object, after that of a Mamba state, oldest first."""
        return range(int(self.has_mamba), int(self.has_mamba) + self.window_pages)

    def are_at(self, node: Any) -> bool:
        """Whether the device holds all parts of the state at the node's end."""
        from sglang.srt.mem_cache.unified_cache.components import ComponentType

        if self.has_mamba and node.component_data[ComponentType.MAMBA].value is None:
            return False
        return not self.window_pages or self.window(node) is not None

    def window(self, node: Any) -> torch.Tensor | None:
        """Slots of the window's pages up to the node's end, int64[tokens]; fewer than it spans at
        the beginning of a text. None where one of them is gone."""
        from sglang.srt.mem_cache.unified_cache.components import ComponentType

        missing, slots = self.window_pages, list[torch.Tensor]()
        while missing > 0 and node.parent is not None:
            held = node.component_data[ComponentType.SWA].value
            if held is None or not node.hash_value:
                return None
            pages = len(node.hash_value)
            page_size = len(held) // pages
            taken = min(pages, missing)
            slots.append(held[len(held) - taken * page_size :])
            missing -= taken
            node = node.parent
        return torch.cat(slots[::-1]).to(torch.int64) if slots else None
