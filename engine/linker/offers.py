"""What the tree would not offer to the linker, though the store needs it.

**States at branch points.** When a prompt leaves a known path inside a tree node, SGLang splits the
node and gives the Mamba state of the split point to a node whose KV is there already. Such a node
is not new, so the tree does not offer it to a linker, and a session whose prompt begins like
another's would be stored without a state to resume from.

While that KV is on its way to the store it cannot be offered at all. The node then is not taken
for stored when its KV is, and who waits for the state hears that it was turned away: it asks again.

**Whole windows.** A node is offered with the sliding-window KV of its own tokens, however many.
What a state needs is that of the last tokens before the node's end, also of nodes above it.

**Objects that have expired.** What the last snapshot lets go of expires from the store, while the
device still holds it. The next session that begins alike must store it again; the tree has it
marked as stored for good. The tree has to decide alike on all ranks, whose indexes forget at
their own times: what one rank misses, all offer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.linker.index import StoredIndex
from engine.linker.ranks import Ranks
from engine.linker.thinning import Thinning
from engine.linker.windows import StateParts
from engine.patch import Kind, Patch

_LOOKED_AT = "torpor_looked_at"
"""Of a node: how many losses there had been when it was looked at, an attribute of ours."""
_GAINED = "torpor_gained"
"""Of a node: it has got a wanted state while it was being stored, an attribute of ours."""


@dataclass(frozen=True)
class _Watched:
    """See `watch`."""

    index: StoredIndex
    ranks: Ranks
    thinning: Thinning
    parts: StateParts
    turn_away: Callable[[Sequence[str]], None]


_watched: list[_Watched] = []


def watch(
    index: StoredIndex,
    ranks: Ranks,
    thinning: Thinning,
    parts: StateParts,
    turn_away: Callable[[Sequence[str]], None],
) -> None:
    """Have what any rank's `index` forgets offered again, by all ranks, and what was left out once
    it is wanted. parts: of a state; turn_away: is told the names of states that cannot be offered
    yet"""
    _watched[:] = [_Watched(index, ranks, thinning, parts, turn_away)]


def should_backup_after_insert(original: Callable[..., bool], tree: Any, state: Any) -> bool:
    """Also back up an existing node that this insert gave a state, or whose path has gone.

    `TorporLinker.offload` leaves out what is stored, so only what is missing is written.
    """
    node = state.target_node
    gained = _gains_state(state)
    is_recalled = _decide(node, is_new=state.is_new_leaf or gained)
    if original(tree, state):
        return True
    if state.is_new_leaf or not tree.enable_external_cache_linker or node is tree.root_node:
        return False
    if node.write_through_pending_id is not None:  # locked by an offload that is under way
        if is_recalled or gained:
            _gains_while_stored(node)
        return False
    if is_recalled or gained:
        node.external_cache_stored = False
        return True
    return bool(unmark_expired([node, *_stored_ancestors(tree, node)]))


def finish_external_linker_offload(
    original: Callable[..., None], core: Any, node_ids: Sequence[Any], ack_id: Any, success: bool
) -> None:
    """What was gained meanwhile is not stored with the rest."""
    original(core, node_ids, ack_id, success)
    for node in map(core.node_by_id, node_ids):
        if getattr(node, _GAINED, False):
            setattr(node, _GAINED, False)
            node.external_cache_stored = False


def _gains_while_stored(node: Any) -> None:
    state = node.hash_value[-1]
    if _watched and not _watched[0].thinning.is_left_out(state):
        setattr(node, _GAINED, True)
        _watched[0].turn_away([state])


def _gains_state(state: Any) -> bool:
    """Whether an insert gives its node a state. Of windows nobody tells; it may be one if the node
    is where a prompt or a turn ends."""
    if not _watched or _watched[0].parts.has_mamba:
        return not state.result.mamba_exist
    return not state.is_new_leaf and _watched[0].thinning.wanted


def _decide(node: Any, *, is_new: bool) -> bool:
    """Leave out the state that an insert gives `node`, or recall one that is wanted now; whether
    it is recalled."""
    if not _watched or not node.hash_value:
        return False
    thinning = _watched[0].thinning
    if thinning.wanted:
        return thinning.recall(node.hash_value[-1])
    if is_new:
        thinning.leave_out(node.hash_value[-1])
    return False


def build_backup_kv_action(
    original: Callable[..., Any], tree: Any, node: Any, write_back: bool = False
) -> Any:
    """Back up a node with all of its ancestors that are not in the store.

    Upstream stops at the first that is stored: those above were stored before it.
    """
    if not tree.enable_external_cache_linker:
        return original(tree, node, write_back=write_back)
    unmark_expired(_stored_ancestors(tree, node))
    action = original(tree, node, write_back=write_back)
    chained = set(action.node_ids)
    above = [
        one.id
        for one in _ancestors(tree, node)
        if not one.external_cache_stored
        and one.write_through_pending_id is None
        and one.id not in chained
    ]
    return type(action)([*reversed(above), *action.node_ids]) if above else action


def _stored_ancestors(tree: Any, node: Any) -> list[Any]:
    return [one for one in _ancestors(tree, node) if one.external_cache_stored]


def _ancestors(tree: Any, node: Any) -> Iterator[Any]:
    """The nodes above `node`, the nearest first, without the root."""
    ancestor = node.parent
    while ancestor is not None and ancestor is not tree.root_node:
        yield ancestor
        ancestor = ancestor.parent


def unmark_expired(nodes: Sequence[Any]) -> list[Any]:
    """Those of `nodes` whose objects are gone, which the tree now takes for not stored."""
    expired = [node for node, gone in zip(nodes, _have_expired(nodes), strict=True) if gone]
    for node in expired:
        node.external_cache_stored = False
    return expired


def _have_expired(nodes: Sequence[Any]) -> list[bool]:
    """Whether objects of nodes that were stored are known to be gone, on any rank.

    A node is looked at once after something was lost, and not with every insert: the work must
    grow with the new tokens, not with the context."""
    if not _watched or not nodes:
        return [False] * len(nodes)
    watched = _watched[0]
    index, ranks, thinning = watched.index, watched.ranks, watched.thinning
    changes = index.losses + thinning.recalled
    due = [getattr(node, _LOOKED_AT, 0) < changes for node in nodes]
    # The usual case costs one small reduction.
    if not ranks.any([any(due)])[0]:
        return [False] * len(nodes)
    missed = [
        is_due and _is_missed(node, index, thinning, watched.parts)
        for node, is_due in zip(nodes, due, strict=True)
    ]
    for node in nodes:
        setattr(node, _LOOKED_AT, changes)
    return ranks.any(missed)


def _is_missed(node: Any, index: StoredIndex, thinning: Thinning, parts: StateParts) -> bool:
    hashes = node.hash_value
    return not all(index.has("kv", hashes)) or (
        parts.are_at(node)
        and not thinning.is_left_out(hashes[-1])
        and not all(index.has("state", hashes[-1:]))
    )


def build_external_linker_offload_transfers(
    original: Callable[..., Any], core: Any, node_id: Any
) -> Any:
    """Offer the parts of a state together, if they are all there, and the whole window."""
    from sglang.srt.mem_cache.hicache_storage import PoolName

    transfers = original(core, node_id)
    if transfers is None or not _watched or not _watched[0].parts.window_pages:
        return transfers
    parts, node = _watched[0].parts, core.node_by_id(node_id)
    is_whole = parts.are_at(node)
    offered = []
    for transfer in transfers:
        if transfer.name == PoolName.SWA and is_whole:
            transfer.keys, transfer.device_indices = node.hash_value[-1:], parts.window(node)
        if transfer.name == PoolName.KV or is_whole:
            offered.append(transfer)
    return offered


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
    Patch(
        target=(
            "sglang.srt.mem_cache.unified_cache.unified_tree_core"
            ".UnifiedTreeCore.finish_external_linker_offload"
        ),
        kind=Kind.AROUND,
        ours=finish_external_linker_offload,
        reason="a state that a node gets while its KV is being stored counts as stored with it",
    ),
    Patch(
        target=(
            "sglang.srt.mem_cache.unified_cache.unified_tree_core"
            ".UnifiedTreeCore.build_external_linker_offload_transfers"
        ),
        kind=Kind.AROUND,
        ours=build_external_linker_offload_transfers,
        reason="a node is offered with the windows of its own tokens, be they too few or too many",
    ),
)
