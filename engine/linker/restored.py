"""A state that is restored stays on the device, as one that was computed does.

SGLang loads a state into the slot that the request works in, and leaves what it loaded in the tree
only together with a state that the request computes: at the next multiple of the grid. Until then
every turn of a resumed session, however short, would load all of its pages again:

    restored     1000 pages | 5 tokens                       no state after them: all is let go of
    next turn    1000 pages | 5 tokens, 9 tokens             the same pages are loaded once more

Here the state is loaded into a second slot as well, which takes the place of the request's last
tracked state. So the request leaves what it loaded in the tree when it is inserted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch

from engine.patch import Kind, Patch


class Asker(NamedTuple):
    """tag: the engine's name of the session, None if it is none's; salt: its tenant's"""

    tag: str | None
    salt: str | None


class RestoredStates:
    """The second slots of requests that load, until their batch has run. For the scheduler's
    thread; alike on all ranks, as SGLang's own slots are."""

    def __init__(self) -> None:
        self._slots: dict[str, torch.Tensor] = {}

    def slot(self, rid: str) -> torch.Tensor | None:
        """int64[1]: where the state of a request is to be loaded once more."""
        return self._slots.get(rid)

    def reserve(self, tree: Any, rid: str) -> None:
        """Take a slot for a request that is about to load; none if all are in use."""
        from sglang.srt.mem_cache.base_prefix_cache import EvictParams

        self.give_back(tree, rid)
        if not tree.enable_mamba_extra_buffer:
            return  # a request then has no place for a state that it does not work in
        allocator = tree.req_to_token_pool.mamba_allocator
        slot = allocator.alloc(1)
        if slot is None:
            tree.evict_for_alloc(EvictParams(num_tokens=0, mamba_num=1))
            slot = allocator.alloc(1)
        if slot is not None:
            self._slots[rid] = slot

    def give_back(self, tree: Any, rid: str) -> None:
        slot = self._slots.pop(rid, None)
        if slot is not None:
            tree.req_to_token_pool.mamba_allocator.free(slot)

    def keep(self, tree: Any, reqs: Sequence[Any], failed: Collection[Any]) -> None:
        """The loads of a batch have ended: hand each request its second state, unless its load
        failed or it has computed a later one, which is what it leaves in the tree."""
        if not self._slots:
            return
        for req in reqs:
            if req.rid not in self._slots:
                continue
            if req in failed or req.kv.mamba_last_track_seqlen is not None:
                self.give_back(tree, req.rid)
            else:
                _hand_over(tree.req_to_token_pool, req, self._slots.pop(req.rid))

    def clear(self) -> None:
        """All slots are free: the pools were cleared."""
        self._slots.clear()


def _hand_over(pool: Any, req: Any, slot: torch.Tensor) -> None:
    place = pool.get_mamba_ping_pong_keep_idx(req)
    if not req.kv.mamba_ping_pong_empty[place]:
        pool.mamba_allocator.free(req.kv.mamba_ping_pong_track_buffer[place : place + 1].clone())
    pool.set_mamba_ping_pong_slot(req, place, slot[0])
    req.kv.mamba_last_track_seqlen = req.prefix_len


def load_back(original: Callable[..., Any], wrapper: Any, req: Any) -> Any:
    """Tell the linker whose load it is, of which tenant, and where else its state is to go."""
    linker = wrapper.cache_linker
    linker.askers[req.rid] = Asker(req.session_id, req.cache_salt)
    linker.restored.reserve(wrapper.cache, req.rid)
    loaded = 0
    try:
        answer = original(wrapper, req)
        loaded = answer[0]
        return answer
    finally:
        del linker.askers[req.rid]
        if not loaded:
            linker.restored.give_back(wrapper.cache, req.rid)


def release_request(original: Callable[..., Any], wrapper: Any, rid: str) -> None:
    """A request that ends before its batch runs gives its slot back."""
    original(wrapper, rid)
    if rid not in wrapper.inflight_load_rids:
        wrapper.cache_linker.restored.give_back(wrapper.cache, rid)


PATCHES = (
    Patch(
        target="sglang.srt.mem_cache.unified_cache.unified_cache_linker"
        ".UnifiedCacheLinkerWrapper.load_back",
        kind=Kind.AROUND,
        ours=load_back,
        reason="a linker is not told whose load it is; a state is loaded into one slot only",
    ),
    Patch(
        target="sglang.srt.mem_cache.unified_cache.unified_cache_linker"
        ".UnifiedCacheLinkerWrapper.release_request",
        kind=Kind.AROUND,
        ours=release_request,
        reason="a linker is not told of a request that ends before it loads",
    ),
)
