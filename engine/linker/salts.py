"""Whose tenant's a node of the tree is: told to the linker with each node that it is offered.

Names of pages do not say in which form they are stored; the salt does (`state_store/forms.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.patch import Kind, Patch


def offload_node(
    original: Callable[..., None], wrapper: Any, node_id: Any, transfers: list[Any]
) -> None:
    linker = wrapper.cache_linker
    linker.offered_salt = wrapper.cache.tree_core.node_by_id(node_id).key.cache_salt
    try:
        original(wrapper, node_id, transfers)
    finally:
        linker.offered_salt = None


PATCHES = (
    Patch(
        target="sglang.srt.mem_cache.unified_cache.unified_cache_linker"
        ".UnifiedCacheLinkerWrapper._offload_node",
        kind=Kind.AROUND,
        ours=offload_node,
        reason="a linker is not told under which salt a node's pages are named",
    ),
)
