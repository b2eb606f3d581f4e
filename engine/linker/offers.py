"""What the tree would not offer to the linker, though the store needs it.

**States at branch points.** When a prompt leaves a known path inside a tree node, SGLang splits the
node and gives the Mamba state of the split point to a node whose KV is there already. Such a node
is not new, so the tree does not offer it to a linker, and a session whose prompt begins like
another's would be stored without a state to resume from.

**Objects that have expired.** What the last snapshot lets go of expires from the store, while the
device still holds it. The next session that begins alike must store it again; the tree has it
marked as stored for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.linker.index import StoredIndex
from engine.patch import Kind, Patch

_watched: list[StoredIndex] = []


def watch(index: StoredIndex) -> None:
    """Have what `index` forgets offered again. Call it in an engine of one rank only: the tree must
    decide alike on all ranks, and their indexes forget at their own times."""
    _watched[:] = [index]


def should_backup_after_insert(original: Callable[..., bool], tree: Any, state: Any) -> bool:
    """Also back up an existing node that this insert gave a state, or whose objects are gone.

    `TorporLinker.offload` leaves out what is stored, so only what is missing is written.
    """
    if original(tree, state):
        return True
    node = state.target_node
    if (
        state.is_new_leaf
        or not tree.enable_external_cache_linker
        or node is tree.root_node
        or node.write_through_pending_id is not None  # locked by an offload that is under way
    ):
        return False
    got_a_state = not state.result.mamba_exist
    if not got_a_state and not _has_expired(node):
        return False
    node.external_cache_stored = False
    return True


def build_backup_kv_action(
    original: Callable[..., Any], tree: Any, node: Any, write_back: bool = False
) -> Any:
    """Before a node is backed up with its unstored ancestors, see which of them really are."""
    if tree.enable_external_cache_linker:
        ancestor = node.parent
        while ancestor is not None and ancestor is not tree.root_node:
            if ancestor.external_cache_stored and _has_expired(ancestor):
                ancestor.external_cache_stored = False
            ancestor = ancestor.parent
    return original(tree, node, write_back=write_back)


def _has_expired(node: Any) -> bool:
    """Whether objects of a node that were stored are known to be gone."""
    if not _watched or not _watched[0].has_forgotten:  # the usual case costs nothing
        return False
    from sglang.srt.mem_cache.unified_cache.components import ComponentType

    index, hashes = _watched[0], node.hash_value
    has_state = node.component_data[ComponentType.MAMBA].value is not None
    return not all(index.has("kv", hashes)) or (
        has_state and not all(index.has("state", hashes[-1:]))
    )


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
    Patch(
        target=(
            "sglang.srt.mem_cache.unified_cache.unified_tree_core"
            ".UnifiedTreeCore._build_backup_kv_action"
        ),
        kind=Kind.AROUND,
        ours=build_backup_kv_action,
        reason="a node once stored is never offered again, even when its objects have expired",
    ),
)
