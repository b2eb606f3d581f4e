"""States at branch points reach the store too.

When a prompt leaves a known path inside a tree node, SGLang splits the node and gives the Mamba
state of the split point to a node whose KV is there already. Such a node is not new, so the tree
does not offer it to a linker, and a session whose prompt begins like another's would be stored
without a state to resume from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.patch import Kind, Patch


def should_backup_after_insert(original: Callable[..., bool], tree: Any, state: Any) -> bool:
    """Also back up an existing node that this insert gave a state.

    Its KV was stored with the path it was split from; `TorporLinker.offload` leaves out what is
    stored, so only the state is written.
    """
    if original(tree, state):
        return True
    node = state.target_node
    got_a_state = not state.is_new_leaf and not state.result.mamba_exist
    if (
        not got_a_state
        or not tree.enable_external_cache_linker
        or node is tree.root_node
        or node.write_through_pending_id is not None  # locked by an offload that is under way
    ):
        return False
    node.external_cache_stored = False
    return True


PATCHES = (
    Patch(
        target=(
            "sglang.srt.mem_cache.unified_cache.unified_tree_core"
            ".UnifiedTreeCore._should_backup_after_insert"
        ),
        kind=Kind.AROUND,
        ours=should_backup_after_insert,
        reason="a state attached to an existing node is offered to HiCache only, not to a linker",
    ),
)
