"""Which states are stored: those that somebody may come back to.

SGLang leaves a state at the end of every prefill chunk, and offers all of them. On a large model
one weighs as much as the KV of tens of thousands of tokens, so most are not worth storing:

    chunks   |----|----|----|----|----|-|
    states        s    s    s    s    s       on the device
    stored                  s    s    s       the prompt's end, a branch point, a mark, and between
                            │    │            as few as lie no more than an interval apart
                            │    └ branch
                            └ the next would be too far from the last one stored

All ranks decide alike: they see the same requests, and nothing else enters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from engine.boundaries import hint_in
from engine.linker.branches import branch_point
from engine.linker.windows import StateParts
from engine.patch import Kind, Patch

_REMEMBERED = 1 << 16  # states


class Thinning:
    """Decides of each state that is left whether it is stored. For the scheduler's thread.

    wanted:   whether the state that is being inserted now is to be stored
    recalled: how many that were not stored have been wanted later
    """

    def __init__(self, parts: StateParts, *, interval: int, chunk: int, grid: int) -> None:
        """parts: of a state; the others in tokens. interval: most between two stored states, unless
        a request says otherwise; chunk: most that are computed at once; grid: states lie at its
        multiples"""
        self._parts = parts
        self._interval = interval
        self._chunk = chunk
        self.grid = grid
        self._left_out: OrderedDict[str, None] = OrderedDict()
        self.wanted = True
        self.recalled = 0

    def wants(self, tree: Any, req: Any, end: int) -> bool:
        """Whether the state is to be stored that the request leaves after `end` of its tokens."""
        total = len(req.origin_input_ids)
        if req.finished() or total - end < self.grid or branch_point(tree, req) == end:
            return True
        hint = hint_in(req.kv_hints)
        if hint is not None and end in hint.on(self.grid).marks:
            return True
        interval = self._interval if hint is None else hint.interval
        following = min(end + self._chunk, total)
        return following - self._last_stored(tree, req) > interval

    def leave_out(self, page_hash: str) -> None:
        self._left_out[page_hash] = None
        self._left_out.move_to_end(page_hash)
        while len(self._left_out) > _REMEMBERED:
            self._left_out.popitem(last=False)

    def is_left_out(self, page_hash: str) -> bool:
        return page_hash in self._left_out

    def recall(self, page_hash: str) -> bool:
        """It is wanted now; whether it was left out."""
        was_left_out = self._left_out.pop(page_hash, 0) is None
        self.recalled += was_left_out
        return was_left_out

    def recall_end(self, tree: Any, req: Any) -> None:
        """Have the state stored that the request began with, if its prompt ends there: then it
        leaves none of its own."""
        core = tree.tree_core
        node = core.node_by_id(req.last_node)
        at_end = len(req.origin_input_ids) - req.kv.cache_protected_len < self.grid
        if at_end and node is not core.root_node and self.recall(node.hash_value[-1]):
            offer(tree, node)

    def clear(self) -> None:
        self._left_out.clear()

    def _last_stored(self, tree: Any, req: Any) -> int:
        """How many of the request's tokens come before the last of its states that is stored, or
        is about to be."""
        in_tree = req.kv.cache_protected_len
        if req.prefix_len > in_tree:
            return int(req.prefix_len)  # loaded: not in the tree yet, and stored for sure
        core, at = tree.tree_core, in_tree
        node = core.node_by_id(req.last_node)
        while node is not core.root_node:
            if self._parts.are_at(node) and not self.is_left_out(node.hash_value[-1]):
                return int(at)
            at -= len(node.hash_value) * tree.page_size
            node = node.parent
        return 0


def offer(tree: Any, node: Any) -> None:
    """Have what is missing of `node` stored. One that is being stored is taken up later, when its
    session asks for it."""
    node.external_cache_stored = False
    tree.linker.offload_nodes([node.id])


def checkpoint_into_tree(
    original: Callable[..., Any], tree: Any, req: Any, *, up_to: int, **kwargs: Any
) -> Any:
    """Decide of the state that is inserted, while it is known whose it is."""
    if tree.linker is None:
        return original(tree, req, up_to=up_to, **kwargs)
    thinning = tree.linker.cache_linker.thinning
    thinning.wanted = thinning.wants(tree, req, up_to)
    if thinning.wanted:
        thinning.recall_end(tree, req)
    try:
        return original(tree, req, up_to=up_to, **kwargs)
    finally:
        thinning.wanted = True


PATCHES = (
    Patch(
        target="sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache.checkpoint_into_tree",
        kind=Kind.AROUND,
        ours=checkpoint_into_tree,
        reason="a linker is offered the state of every chunk, and not told what it is for",
    ),
)
